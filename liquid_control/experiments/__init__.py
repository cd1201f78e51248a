"""Whole studies: one file a published table, which trains what it needs and goes on where it was stopped."""
