"""The first world of a run whose state became non-finite, as it was before, in a small file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from scenes.contract.demonstrations import BROKEN, expanded_bytes
from scenes.contract.errors import InputError
from scenes.contract.files import new_file

FILE = "nan_world.npz"  # in the run's folder
_CARRY = "carry/"
_MAX_BYTES = 64 << 20  # of a file that is read, expanded


@dataclass(frozen=True)
class NanWorld:
    """A world before the step that it did not survive.

    Attributes:
        world: its index.
        env_steps: of the run when it was noticed, at the end of its epoch.
        qpos: joint positions [rad], [m].
        qvel: joint velocities [rad/s], [m/s].
        action: of the step, in [-1, 1].
        carry: leaves of what the physics went on from, of which `qpos` and `qvel` are a part; ()
            in files from before they were kept.
    """

    world: int
    env_steps: int
    qpos: Float[np.ndarray, " nq"]
    qvel: Float[np.ndarray, " nv"]
    action: Float[np.ndarray, " A"]
    carry: Sequence[np.ndarray] = ()


def write_nan_world(path: Path, found: NanWorld) -> None:
    """Write the file atomically, over one that is there."""
    arrays = {f"{_CARRY}{i:03d}": leaf for i, leaf in enumerate(found.carry)}
    arrays |= {name: getattr(found, name) for name in ("qpos", "qvel", "action")}
    numbers = {"world": found.world, "env_steps": found.env_steps}
    with new_file(path) as part, part.open("wb") as file:
        np.savez(file, **arrays, **numbers)  # pyright: ignore


def read_nan_world(path: Path) -> NanWorld:
    """Return what a file holds; raises FileNotFoundError, and InputError for any other file."""
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}'; a run writes {FILE} where a world fails")
    try:
        if (size := expanded_bytes(path)) > _MAX_BYTES:
            raise InputError(f"it holds {size >> 20} MiB, allowed: {_MAX_BYTES >> 20}")
        with np.load(path, allow_pickle=False) as file:
            carry = [file[name] for name in sorted(file.files) if name.startswith(_CARRY)]
            state = {n: np.asarray(file[n], np.float32) for n in ("qpos", "qvel", "action")}
            env_steps = int(file["env_steps"]) if "env_steps" in file.files else 0
            return NanWorld(int(file["world"]), env_steps, **state, carry=carry)
    except BROKEN as error:
        raise InputError(
            f"{path} is no world that failed: {error}; allowed: {FILE} of a run"
        ) from error
