"""Record demonstrations of a task's scripted expert into one .npz file."""

import sys

from mjx_serl.cli.start import start

if __name__ == "__main__":
    sys.exit(start("record"))
