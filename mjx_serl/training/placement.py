"""Which devices step worlds, choose actions and learn, in the words of RLinf's configs.

RLinf's table `cluster.component_placement` gives each component ranks of accelerators; here they
are numbers of the devices of this process. `mjx_serl.training.placed` is what runs so.
"""

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax

from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged

JaxDevice: TypeAlias = Any  # jax.Device, which is a variable to type checkers
_RANKS = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """Parts of on-policy training on devices of their own, as RLinf's `component_placement`.

    Attributes:
        env: devices, of those that `--devices` counts, that step the worlds and draw their pictures
            in equal shares: numbers from 0 and ranges, such as 0-1,3, or all. "" places nothing:
            every device does all.
        rollout: the one that chooses actions; "" is that of `actor`.
        actor: the one that holds the policy with its optimiser, and learns.
        pipeline_stage_num: groups of worlds that are stepped by turns: while actions are chosen for
            one, another is stepped. 1 does one after the other.
    """

    env: str = ""
    rollout: str = ""
    actor: str = ""
    pipeline_stage_num: int = ranged(2, least=1, most=16)

    @property
    def named(self) -> bool:
        """Whether anything is placed."""
        return bool(self.env or self.rollout or self.actor)

    def devices(self, among: int) -> tuple[tuple[JaxDevice, ...], JaxDevice, JaxDevice]:
        """Return those of env, rollout and actor, of the first `among` of this process.

        Raises InputError for what names no devices, or more than one that chooses or learns.
        """
        there = jax.local_devices()[:among]
        if not self.env or not self.actor:
            raise InputError(
                f"--placement with env '{self.env}' and actor '{self.actor}', allowed: both said, "
                "for example --placement.env 0-1 --placement.actor 2"
            )
        env = tuple(there[i] for i in ranks("env", self.env, len(there)))
        rollout, actor = (
            there[_one(name, text, len(there))]
            for name, text in (("rollout", self.rollout or self.actor), ("actor", self.actor))
        )
        return env, rollout, actor


def ranks(name: str, text: str, count: int) -> tuple[int, ...]:
    """Return the numbers, below `count`, that a text such as "0-1,3" or "all" stands for."""
    if text.strip() == "all":
        return tuple(range(count))
    found: list[int] = []
    for word in text.split(","):
        ends = _RANKS.fullmatch(word.strip())
        if ends is None:
            hint = "; RLinf's ranks of processes (after a colon) mean nothing here"
            raise InputError(
                f"--placement.{name} '{text}', allowed: numbers of devices and ranges, such as "
                f"0-1,3, or all{hint if ':' in text else ''}"
            )
        first, last = int(ends[1]), int(ends[2] or ends[1])
        found += range(first, last + 1)
    if not found or len(set(found)) < len(found) or max(found) >= count:
        raise InputError(
            f"--placement.{name} '{text}', allowed: each of 0 to {count - 1} once, for --devices "
            f"says {count}"
        )
    return tuple(found)


def _one(name: str, text: str, count: int) -> int:
    first, *more = ranks(name, text, count)
    if more:
        raise InputError(
            f"--placement.{name} '{text}', allowed: one device. Hint: policies that several are to "
            "hold together take --fsdp in place of --placement"
        )
    return first
