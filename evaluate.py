"""Evaluate a trained run on fresh episodes: `python evaluate.py runs/NAME --episodes 100`."""

import sys

from mjx_serl.cli.start import start

if __name__ == "__main__":
    sys.exit(start("evaluate"))
