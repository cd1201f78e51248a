"""``python drive.py CHECKPOINT``: drives the Udacity simulator, which connects by itself."""

from liquid_control.__main__ import main

if __name__ == "__main__":
    main("drive")
