"""Tiny liquid networks that drive, and the measure of what they can do."""
