"""``python drive.py CHECKPOINT``: drives the Udacity simulator, which connects by itself."""

from liquid_control.drive import main
from liquid_control.support.command import run

if __name__ == "__main__":
    run(main)
