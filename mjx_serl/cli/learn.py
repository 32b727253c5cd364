"""Train on what real arms do: `python learn.py --task T`, then deploy.py with --learner for each.

docs/real_robot.md leads from nothing to a policy. All options are train.py's.
"""

import sys

from mjx_serl.cli.train import run as train

# Where actors are listened for unless --listen says otherwise: this machine alone.
ADDRESS = "127.0.0.1:7420"


def run() -> int:
    """Read the command line and train; returns the exit status."""
    said = {word.split("=", 1)[0] for word in sys.argv[1:]}
    if not said & {"--listen", "--actors.address", "--resume"}:
        sys.argv += ["--listen", ADDRESS]
    return train()
