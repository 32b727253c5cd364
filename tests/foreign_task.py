"""A task as other projects' demonstrations might be of, without a simulator."""

from pathlib import Path

import numpy as np

from mjx_serl.data.foreign.convert import Converted, ConvertOptions, convert
from mjx_serl.data.foreign.opening import open_foreign
from scenes.contract.demonstrations import DemoContract
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

SIZE = 8  # of its pictures [px]
ACTION = ActionSpec(
    mode="ee_delta", names=("x", "y", "z", "gripper"), scale=(0.1, 0.1, 0.1, 1.0), rate=10.0
)
NUMBERS = (ObsField(name="position", shape=(3,)), ObsField(name="grip", shape=(1,)))
FRONT = ObsField(name="front", shape=(SIZE, SIZE, 3), dtype="uint8")


def contract_of(*fields: ObsField, limit: int = 6) -> DemoContract:
    return DemoContract.of("toy", ObsSpec(fields=fields), ACTION, episode_steps=limit)


CONTRACT = contract_of(*NUMBERS, FRONT)


def numbers(length: int, seed: int) -> dict[str, np.ndarray]:
    """A position, a grip, pictures and actions of an episode."""
    rng = np.random.default_rng(seed)
    return {
        "position": rng.normal(size=(length, 3)).astype(np.float32),
        "grip": rng.uniform(size=(length, 1)).astype(np.float32),
        "front": rng.integers(0, 256, (length, SIZE, SIZE, 3)).astype(np.uint8),
        "action": rng.uniform(-1, 1, (length, 4)).astype(np.float32),
    }


def imported(path: Path, *words: str, contract: DemoContract = CONTRACT, **options) -> Converted:
    """Read a file for that task; pickles are allowed unless said otherwise."""
    allow = options.pop("allow_pickle", True)
    file = open_foreign(path, allow_pickle=allow)
    return convert(file, contract, ConvertOptions(mapping=words, **options))
