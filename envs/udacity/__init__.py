"""The Udacity simulator: the bridge that it connects to, and what stands in for it."""
