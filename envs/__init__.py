"""Where the drivers drive: environments, their observations and their teachers. Imports no other room."""

from envs.registration import register_environments

register_environments()
