"""Start a command: `mjx-serl train` where we are installed, `python train.py` in a checkout.

Stdlib only, and readable by interpreters that are too old for the rest, so that these are told so.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
OLDEST = (3, 11)
# A few of what is installed with us tell whether this is our environment.
NEEDED = ("numpy", "tyro")
SIMULATOR = ("jax", "mujoco")
NO_INTEL_MAC = (
    "Intel Macs have no wheels of jax and mujoco: only bridge, deploy and doctor run here"
)
BAD_INPUT = 2  # exit status, as in scenes.contract.command_line
PIPE_CLOSED = 141  # 128 + SIGPIPE, as shells say it


class Command(NamedTuple):
    """Where a command is.

    Attributes:
        module: whose function `run` reads `sys.argv` and returns the exit status.
        about: what it does, for the list of all.
        simulator: it needs one, and so jax and mujoco.
        own_signals: it lets go of an arm when interrupted; the others end at once.
    """

    module: str
    about: str
    simulator: bool = True
    own_signals: bool = False


COMMANDS = {
    "train": Command("mjx_serl.cli.train", "train a policy"),
    "learn": Command("mjx_serl.cli.learn", "train on what arms elsewhere do"),
    "evaluate": Command("mjx_serl.cli.evaluate", "success of a run on fresh episodes"),
    "play": Command("mjx_serl.cli.play", "a video, or a page in the browser, of a policy"),
    "record": Command("mjx_serl.cli.record", "demonstrations of a scripted expert"),
    "demos": Command("mjx_serl.demos", "demonstrations from and for other projects"),
    "deploy": Command(
        "mjx_serl.cli.deploy", "run a policy on an arm", simulator=False, own_signals=True
    ),
    "excite": Command(
        "mjx_serl.cli.excite", "record a motion for sysid", simulator=False, own_signals=True
    ),
    "sysid": Command("mjx_serl.sysid.__main__", "find what a recorded arm is like"),
    "dashboard": Command(
        "mjx_serl.dashboard.__main__", "runs in the browser: curves, pictures", simulator=False
    ),
    "launch": Command("mjx_serl.launch.__main__", "one run of train in several processes"),
    "sweep": Command("mjx_serl.sweep.__main__", "many runs of train from one file"),
    "compare": Command("mjx_serl.compare", "runs side by side: table and picture"),
    "export": Command("mjx_serl.export.__main__", "make a run's bundle for a robot"),
    "serve": Command(
        "mjx_serl.cli.serve", "let openpi clients ask a run's policy", own_signals=True
    ),
    "pretrain": Command("mjx_serl.pretraining.__main__", "train a frozen image encoder"),
    "classifier": Command("mjx_serl.classifier", "train a classifier of success, or test one"),
    "bridge": Command(
        "robot_bridge.__main__",
        "keys, observers and recordings of the bridge",
        simulator=False,
        own_signals=True,
    ),
    "doctor": Command("mjx_serl.cli.doctor", "what this machine offers", simulator=False),
}


def main() -> int:
    """Run `mjx-serl COMMAND ...`; returns its exit status."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("-h", "--help"):
        lines = [f"  {name:<11}{command.about}" for name, command in COMMANDS.items()]
        sys.stdout.write("usage: mjx-serl COMMAND ...; COMMAND --help lists its options\n\n")
        sys.stdout.write("\n".join(lines) + "\n")
        return 0
    if word not in COMMANDS:
        return _refuse(f"Unknown command '{word}'. Allowed: {', '.join(COMMANDS)}.")
    # What follows reads the command line as if it were a script of its own.
    sys.argv = [f"mjx-serl {word}", *sys.argv[2:]]
    return start(word)


def start(name: str) -> int:
    """Run a command with the options in `sys.argv`; returns its exit status."""
    command = COMMANDS[name]
    trouble = wrong_python(SIMULATOR if command.simulator else ())
    if trouble:
        return _refuse(trouble)
    if command.simulator:
        # Pictures are splats. Without this `import mujoco` starts a python of its own to try
        # GLFW, and Ctrl-C shows that one's traceback.
        os.environ.setdefault("MUJOCO_GL", "disable")
    from mjx_serl.run.signals import QuitSignal

    # Before anything is imported that takes its time.
    with contextlib.nullcontext() if command.own_signals else QuitSignal():
        try:
            status = importlib.import_module(command.module).run()
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has gone (`... | head`); the interpreter is not to try again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE_CLOSED
        return status


def wrong_python(simulator: tuple[str, ...] = SIMULATOR) -> str:
    """Say which python to use where this is none that we are installed in, else nothing."""
    if simulator and sys.platform == "darwin" and platform.machine() == "x86_64":
        return NO_INTEL_MAC
    absent = [name for name in (*NEEDED, *simulator) if importlib.util.find_spec(name) is None]
    if sys.version_info >= OLDEST and not absent:
        return ""
    why = f"has no {absent[0]}" if absent else ""
    if sys.version_info < OLDEST:
        why = f"is {sys.version_info[0]}.{sys.version_info[1]}, not 3.11 or newer"
    return f"{sys.executable} {why}; {_right_python()}"


def _right_python() -> str:
    if not (ROOT / "pyproject.toml").is_file():
        return "pip install mjx-serl"
    ours = ROOT / ".venv" / "bin" / "python"
    use = f"use {ours} {sys.argv[0]}"
    return use if ours.exists() else f"`make setup` makes one that has all, then {use}"


def _refuse(line: str) -> int:
    sys.stderr.write(f"error: {line}\n")
    return BAD_INPUT
