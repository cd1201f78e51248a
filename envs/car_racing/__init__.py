"""CarRacing: a fast twin of the official environment, what a driver sees of it, and the expert that teaches."""
