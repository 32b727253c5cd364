"""Watch a task: `python play.py TASK` writes a video, `--view` plays it live in the browser."""

import sys

from mjx_serl.cli.start import start

if __name__ == "__main__":
    sys.exit(start("play"))
