"""``python drive.py CHECKPOINT``: drives the Udacity simulator, which connects by itself."""

from liquid_control.command import run
from liquid_control.drive import main

if __name__ == "__main__":
    run(main)
