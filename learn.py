"""Train on what arms elsewhere do: `python learn.py --task T`; see docs/real_robot.md."""

import sys

from mjx_serl.cli.start import start

if __name__ == "__main__":
    sys.exit(start("learn"))
