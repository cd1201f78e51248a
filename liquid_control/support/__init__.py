"""What every room may use: errors, ranges, config to command line, files and checkpoints. Imports nothing of ours."""
