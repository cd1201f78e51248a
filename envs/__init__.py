"""Where the drivers drive: environments, their observations and their teachers. Imports no other room."""
