"""Read all options of a sweep as train.py will: python -m mjx_serl.sweep.plan SPEC FOLDER OUT.json

A process of its own: what reads them starts JAX, which takes memory of the device that the runs are
for.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mjx_serl.platform import prepare_platform
from mjx_serl.sweep.search import open_sweep
from mjx_serl.sweep.spec import Spec, Variant
from scenes.contract.command_line import guarded, how_to_start
from scenes.contract.errors import InputError, UserError
from scenes.contract.serialize import to_json

if TYPE_CHECKING:
    from mjx_serl.config import TrainConfig


def planned_apart(spec: Path, folder: Path) -> dict[str, Any]:
    """Return the config of each variant as JSON, by its name, read in another process.

    That has said on stderr what cannot be; SystemExit is with its status then.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "configs.json"
        command = [sys.executable, "-m", "mjx_serl.sweep.plan", *map(str, (spec, folder, out))]
        # Interrupted with us, it would show a traceback; `run` ends it.
        done = subprocess.run(command, stdout=subprocess.DEVNULL, start_new_session=True)
        if done.returncode:
            raise SystemExit(done.returncode)
        return json.loads(out.read_text())


def planned(spec: Spec) -> dict[str, "TrainConfig"]:
    """Return the config of each variant by its name, the first seed's.

    Raises the errors of train.py with the variant's name before them, and InputError for two
    variants that are the same, or one whose runs were begun with other options.
    """
    from mjx_serl.seeds import SeedRuns

    configs: dict[str, TrainConfig] = {}
    for variant in spec.variants:
        cfg = _read(variant, spec.seeds[0], together=spec.together)
        same = [name for name, other in configs.items() if other == cfg]
        if same:
            raise InputError(f"variants '{same[0]}' and '{variant.name}' are the same runs")
        configs[variant.name] = cfg
        group = spec.folder / variant.name
        if any(group.glob("seed-*/config.json")):
            _require_unchanged(variant.name, SeedRuns.open(group).cfg, cfg)
    return configs


def _read(variant: Variant, seed: int, *, together: bool) -> "TrainConfig":
    from mjx_serl.commands import parse_train, pinned
    from mjx_serl.envs.task import TASKS
    from mjx_serl.run.together import require_together

    try:
        cfg, _ = parse_train([*variant.words(), f"--seed={seed}"])
        cfg.check()
        if together:
            require_together(cfg)
        TASKS[cfg.task]  # an unknown one is told with those that there are
        pinned(cfg)
    except UserError as error:
        raise InputError(f"variant '{variant.name}': {error}") from error
    except SystemExit:
        sys.stderr.write(f"That is of variant '{variant.name}'.\n")
        raise
    return cfg


def _require_unchanged(name: str, old: "TrainConfig", new: "TrainConfig") -> None:
    from mjx_serl.run.resume import all_changes

    # Seeds may be added; the first one's number is no option of the variant.
    changes = [str(change) for change in all_changes(old, new) if change.name != "seed"]
    if changes:
        raise InputError(
            f"variant '{name}' has runs that were begun otherwise: {', '.join(changes)}. Hint: "
            "take another name or another folder, or delete its runs"
        )


def main(spec: Path, folder: Path, out: Path) -> int:
    """Write the configs as JSON; returns the exit status."""
    prepare_platform()

    def write() -> int:
        configs = planned(open_sweep(spec, folder=folder).spec)
        out.write_text(json.dumps({name: to_json(cfg) for name, cfg in configs.items()}))
        return 0

    return guarded(write)


if __name__ == "__main__":
    paths = sys.argv[1:4]
    sys.argv = [how_to_start("train")]  # whose options those are, where one is refused
    sys.exit(main(*map(Path, paths)))
