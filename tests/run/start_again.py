"""Start train.py again and again without importing everything again: `start_again.py`.

Reads one JSON line per start, the list of its options, and answers with the process id; then,
when that process has ended, with its exit status (minus the signal that ended it). Each start is
a fork of a process that has imported all and has begun nothing: no backend of JAX, no thread.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
# What the script imports sooner or later.
IMPORTED = (
    "mjx_serl.commands",
    "mjx_serl.cli.train",
    "mjx_serl.envs.physics.native",
    "mjx_serl.tasks.pick_cube",
    "mjx_serl.tasks.pick_turned_bar",
    "mjx_serl.training.off_policy",
    "orbax.checkpoint",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "matplotlib.ticker",
)


def say(number: int) -> None:
    """Answer at once."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def become_train_py(argv: list[str], err: str) -> None:
    """Run the script as `python train.py ...` would; what it prints goes to a file."""
    file = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = [str(TRAIN), *argv]
    status = 1
    try:
        runpy.run_path(str(TRAIN), run_name="__main__")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Import what train.py imports, then start it as often as asked."""
    from mjx_serl.platform import prepare_platform

    prepare_platform(cache_dir=TRAIN.parent / ".cache" / "jax")
    for name in IMPORTED:
        importlib.import_module(name)
    # As the suite does, whose compiled programs it finds.
    from short_programs import random_by_call

    with random_by_call():
        for number, line in enumerate(sys.stdin):
            child = os.fork()
            if child == 0:
                become_train_py(json.loads(line), f"start_{number}.txt")
            say(child)
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
