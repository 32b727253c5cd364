"""What worlds are told to do in words: each draws a phrasing at its reset and shows its numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from mjx_serl.types import Obs, PRNGKey
from scenes.contract.errors import InputError
from scenes.contract.language import (
    INSTRUCTION,
    Language,
    TokenizerConfig,
    cleaned,
    instruction_field,
    tokens_of,
)
from scenes.contract.specs import ObsField

# Stream of the key of a world's reset, behind those of `mjx_serl.envs.variation`.
_PHRASING = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instructions:
    """Phrasings of one instruction, which a task may declare as its `instructions`.

    Attributes:
        train: what worlds are told; the first is what a bundle's policy is told by default.
        held_out: what worlds of evaluations are told instead; () tells them those of training.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.train:
            raise InputError("Instructions: no phrasing to train with, allowed: one or more")
        words = [cleaned(text) for text in (*self.train, *self.held_out)]
        twice = sorted({text for text in words if words.count(text) > 1})
        if twice:
            raise InputError(f"Instructions: '{twice[0]}' stands twice, allowed: once")


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """The phrasings of worlds, as numbers.

    Attributes:
        instructions: of the task.
        config: of the tokenizer.
        field: what is observed.
        tokens: of every phrasing, those of training first.
        span: first phrasing that worlds draw, and the one behind the last.
    """

    instructions: Instructions
    config: TokenizerConfig
    field: ObsField
    tokens: Int32[np.ndarray, "P S"]
    span: tuple[int, int]

    @property
    def texts(self) -> tuple[str, ...]:
        """Every phrasing, in the order of `tokens`."""
        return (*self.instructions.train, *self.instructions.held_out)

    @property
    def held_out(self) -> "Told":
        """The same for worlds that are told what nobody was trained with."""
        first = len(self.instructions.train)
        unseen = (first, len(self.tokens)) if self.instructions.held_out else (0, first)
        return dataclasses.replace(self, span=unseen)

    @property
    def language(self) -> Language:
        """What a policy's contract says of it."""
        return Language(tokenizer=self.config.anywhere, instruction=self.instructions.train[0])

    def draw(self, key: PRNGKey) -> Int[Array, ""]:
        """Return which phrasing a world is told whose reset has this key."""
        return jax.random.randint(jax.random.fold_in(key, _PHRASING), (), *self.span)

    def observe(self, which: Int[Array, ""]) -> Obs:
        """Return the observation of a phrasing, by its name."""
        return {INSTRUCTION: jnp.asarray(self.tokens)[which]}


def build_told(instructions: Instructions, config: TokenizerConfig) -> Told:
    """Return the phrasings as numbers; InputError where one does not fit into the slots."""
    tokenizer = config.build()
    texts = (*instructions.train, *instructions.held_out)
    return Told(
        instructions=instructions,
        config=config,
        field=instruction_field(tokenizer),
        tokens=np.stack([tokens_of(tokenizer, text) for text in texts]),
        span=(0, len(instructions.train)),
    )
