"""Run a policy on an arm: `python deploy.py RUN --robot sim`; see docs/deploy.md."""

import sys

from mjx_serl.cli.start import start

if __name__ == "__main__":
    sys.exit(start("deploy"))
