"""Entries of an action that are chosen among a few values, beside the continuous ones."""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from scenes.contract.errors import InputError
from scenes.contract.specs import GRIPPER, ActionSpec

GRIPPER_VALUES = 3  # -1 opens, 0 leaves it, 1 closes (HIL-SERL: reference serl_family.md 1.3)


@dataclasses.dataclass(frozen=True)
class Choices:
    """Which entries of an action are chosen, and of how many values, evenly spaced in [-1, 1].

    One number stands for the values of all of them: of two grippers with three values each it is
    3 k_0 + k_1, as in HIL-SERL.

    Attributes:
        action: all entries.
        counts: values of each entry; 0 where it is continuous.
    """

    action: ActionSpec
    counts: tuple[int, ...]

    @property
    def chosen(self) -> tuple[int, ...]:
        """Indices of the entries that are chosen."""
        return tuple(i for i, count in enumerate(self.counts) if count)

    @property
    def continuous(self) -> ActionSpec:
        """What the other entries mean."""
        kept = [i for i, count in enumerate(self.counts) if not count]
        names, scale = ([x[i] for i in kept] for x in (self.action.names, self.action.scale))
        return dataclasses.replace(self.action, names=tuple(names), scale=tuple(scale), choices=())

    @cached_property
    def values(self) -> Float[np.ndarray, "K D"]:
        """Values of the chosen entries for each number."""
        each = [np.linspace(-1.0, 1.0, self.counts[i]) for i in self.chosen]
        return np.array([*itertools.product(*each)], np.float32)

    def number(self, action: Float[Array, "*lead A"]) -> Int[Array, "*lead"]:
        """The number of the values that are nearest to an action's.

        Of three values it is round(a) + 1 for each entry (hil-serl pull request 23; cutting off
        the fraction, as its fork does, takes 0.9 for "stay").
        """
        number = jnp.zeros(action.shape[:-1], jnp.int32)
        for i in self.chosen:
            count, half = self.counts[i], (self.counts[i] - 1) / 2
            nearest = jnp.round(action[..., i] * half + half % 1).astype(jnp.int32) + int(half)
            number = number * count + jnp.clip(nearest, 0, count - 1)
        return number

    def split(self, action: Float[Array, "*lead A"]) -> Float[Array, "*lead C"]:
        """The continuous entries of an action."""
        kept = [i for i, count in enumerate(self.counts) if not count]
        return action[..., np.array(kept)]

    def joined(
        self, continuous: Float[Array, "B C"], number: Int[Array, " B"]
    ) -> Float[Array, "B A"]:
        """The action of continuous entries and the number of the others' values."""
        # A product with ones and zeros: a bundle needs no rule for look-ups.
        picked = (number[:, None] == np.arange(len(self.values))).astype(jnp.float32)
        values = picked @ self.values
        parts, taken, chosen = [], 0, 0
        for count in self.counts:
            source, at = (values, chosen) if count else (continuous, taken)
            parts.append(source[:, at : at + 1])
            chosen, taken = chosen + bool(count), taken + (not count)
        return jnp.concatenate(parts, axis=-1)


def choices_of(action: ActionSpec) -> Choices:
    """The choices that a spec declares; where it has none, every gripper's opening and closing.

    Raises InputError for an action without a gripper, or with nothing else.
    """
    counts = action.choices or tuple(
        GRIPPER_VALUES if role_and_name(name)[1] == GRIPPER else 0 for name in action.names
    )
    if all(counts) or not any(counts):
        raise InputError(
            f"hybrid: action entries {', '.join(action.names)}, allowed: some continuous and some "
            f"that are chosen ('{GRIPPER}', or what `ActionSpec.choices` says). Hint: --agent sac"
        )
    return Choices(action, counts)


def role_and_name(entry: str) -> tuple[str, str]:
    """The arm's part of an entry's name with its slash, "" for a single arm, and the rest."""
    role, slash, name = entry.rpartition("/")
    return role + slash, name


def changes(
    commands: Sequence[Float[Array, "*lead"]], actions: Sequence[Float[Array, "*lead"]]
) -> Float[Array, "*lead"]:
    """How many grippers an action turns from open to closed or back.

    Args:
        commands: closure of each gripper as commanded before the action, 0 open to 1 closed.
        actions: its entry, of which -1 opens and 1 closes.
    """
    turned = jnp.zeros_like(actions[0])
    for command, action in zip(commands, actions, strict=True):
        closes, opens = (action > 0.5) & (command < 0.5), (action < -0.5) & (command > 0.5)
        turned += (closes | opens).astype(turned.dtype)
    return turned
