"""In whose terms demonstrations are written as a dataset: our own, or ManiSkill-GS's."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mjx_serl.data.foreign.lerobot import DONE, REWARD, TRUNCATED
from scenes.contract.demonstrations import OBS, Arrays, DemoContract, Field
from scenes.contract.errors import InputError
from scenes.contract.language import INSTRUCTION
from scenes.contract.lerobot import (
    ACTION_KEY,
    INTERVENED,
    PICTURE_KEY,
    STATE_KEY,
    DatasetLayout,
    entry_names,
    require_whole_rate,
)
from scenes.contract.specs import GRIPPER, STEPS, TURNS

Columns = dict[str, NDArray[Any]]
Episode = tuple[slice, int]  # rows and column of the arrays [T, M, ...]


class Form(Protocol):
    """What a dataset's columns are made of."""

    @property
    def words(self) -> str:
        """What was done, where nothing else says it; "" the task's name."""
        ...

    def layout(self, contract: DemoContract) -> DatasetLayout:
        """The columns; InputError, a line each, for what demonstrations have too much or lack."""
        ...

    def columns(self, contract: DemoContract, arrays: Arrays, episode: Episode) -> Columns:
        """State, action and flags [T, ...] of an episode, by our names."""
        ...

    def keeps(self, arrays: Arrays, episode: Episode) -> bool:
        """Whether an episode is written."""
        ...


class OwnForm:
    """All that demonstrations hold, so that our own reader has them back bit for bit."""

    words = ""

    def layout(self, contract: DemoContract) -> DatasetLayout:
        """All numbers as the state, all pictures as PNG, and how steps paid and ended."""
        require_whole_rate(contract.rate)
        numbers, pictures = _sorted(contract.obs)
        return DatasetLayout(
            state_names=tuple(n for name, (size,), _ in numbers for n in entry_names(name, size)),
            pictures={name: shape for name, shape, _ in pictures},
            action_names=contract.action_names,
            flags={REWARD: "float32", DONE: "bool", TRUNCATED: "bool", INTERVENED: "bool"},
            fps=int(contract.rate),
            videos=False,
        )

    def columns(self, contract: DemoContract, arrays: Arrays, episode: Episode) -> Columns:
        """As they are."""
        columns: Columns = {
            ACTION_KEY: arrays["action"][episode],
            REWARD: arrays["reward"][episode],
            DONE: arrays["terminated"][episode] | arrays["truncated"][episode],
            TRUNCATED: arrays["truncated"][episode],
            INTERVENED: arrays["expert"][episode],
        }
        numbers, _ = _sorted(contract.obs)
        if numbers:
            vectors = [arrays[f"{OBS}{name}"][episode] for name, *_ in numbers]
            columns[STATE_KEY] = np.concatenate(vectors, axis=1)
        return columns

    def keeps(self, arrays: Arrays, episode: Episode) -> bool:
        """All."""
        del arrays, episode
        return True


class GSEnvForm:
    """ManiSkill-GS's demonstrations of PutCubeOnPlate (reference vla_and_real2sim.md 1.2, 1.3).

    `observation.image` as video, `observation.state`: seven joints and both fingers [rad, m],
    `actions`: steps [m], turns [rad], and where the fingers are to be, from -1 (-1 cm) to 1 (4 cm);
    solved episodes alone. Not as theirs: the picture is square, the middle of their view; turns are
    about the axes of one rotation, which their controller takes for Euler angles.
    """

    words = "pick up the cube and put it on the plate"
    camera = "third"
    fingers = (-0.01, 0.04)  # [m] of a finger for -1 and 1
    action_names = (*STEPS, *TURNS, GRIPPER)
    _read: Mapping[str, int] = {"joint_position": 7, "gripper_width": 1, "gripper_command": 1}

    def layout(self, contract: DemoContract) -> DatasetLayout:
        """Theirs."""
        require_whole_rate(contract.rate)
        found = {name: (shape, dtype) for name, shape, dtype in contract.obs}
        lines = [
            f"observation '{name}': {found.get(name, 'none such')}, wanted: float32[{size}]"
            for name, size in self._read.items()
            if found.get(name) != ((size,), "float32")
        ]
        shape, dtype = found.get(self.camera, ((), ""))
        if len(shape) != 3 or shape[-1] != 3 or dtype != "uint8":
            lines.append(f"no pictures of '{self.camera}': record with --cameras {self.camera}")
        if contract.action_names != self.action_names or contract.base != "target":
            names = ", ".join(contract.action_names)
            lines.append(
                f"actions {names} on the {contract.base}, wanted: {', '.join(self.action_names)} "
                "on the target"
            )
        if lines:
            raise InputError("\n".join([*lines, "allowed: demonstrations of put_cube_on_plate"]))
        fingers = entry_names("finger_position", 2)
        return DatasetLayout(
            state_names=(*entry_names("joint_position", 7), *fingers),
            pictures={self.camera: shape},
            action_names=self.action_names,
            flags={},
            fps=int(contract.rate),
            videos=True,
            keys={ACTION_KEY: "actions", PICTURE_KEY + self.camera: "observation.image"},
        )

    def columns(self, contract: DemoContract, arrays: Arrays, episode: Episode) -> Columns:
        """In their units."""
        action, scale = arrays["action"][episode], np.asarray(contract.action_scale)
        finger = 0.5 * arrays[f"{OBS}gripper_width"][episode]
        closure = arrays[f"{OBS}gripper_command"][episode] + scale[6:] * action[:, 6:]
        low, high = self.fingers
        wanted = high * (1.0 - closure.clip(0.0, 1.0))
        parts = [scale[:6] * action[:, :6], 2.0 * (wanted - low) / (high - low) - 1.0]
        joints = arrays[f"{OBS}joint_position"][episode]
        return {
            STATE_KEY: np.concatenate([joints, finger, finger], axis=1).astype(np.float32),
            ACTION_KEY: np.concatenate(parts, axis=1).astype(np.float32),
        }

    def keeps(self, arrays: Arrays, episode: Episode) -> bool:
        """Those that were solved."""
        return bool(arrays["terminated"][episode][-1] and arrays["reward"][episode][-1] > 0.0)


FORMS: Mapping[str, Form] = {"lerobot": OwnForm(), "gsenv": GSEnvForm()}


def _sorted(fields: tuple[Field, ...]) -> tuple[list[Field], list[Field]]:
    """The vectors and the pictures; InputError for what is neither, words apart."""
    fields = tuple(field for field in fields if field[0] != INSTRUCTION)
    numbers = [f for f in fields if len(f[1]) == 1 and f[2] == "float32"]
    pictures = [f for f in fields if len(f[1]) == 3 and f[1][2] == 3 and f[2] == "uint8"]
    others = [f for f in fields if f not in numbers and f not in pictures]
    if others:
        raise InputError(
            "\n".join(
                f"observation '{name}' is {dtype}{list(shape)}; allowed: vectors of float32 and "
                "pictures uint8[H, W, 3]"
                for name, shape, dtype in others
            )
        )
    return numbers, pictures
