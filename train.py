"""Train a policy: `python train.py --help` lists every option, `make train` sets up and trains."""

import sys

from mjx_serl.cli.start import start

if __name__ == "__main__":
    sys.exit(start("train"))
