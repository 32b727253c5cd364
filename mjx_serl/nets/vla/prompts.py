"""Prompts of pi0 and pi0.5 as numbers, in openpi's formats (reference vla_and_real2sim.md 4.1).

An instruction alone is what `scenes.contract.language` makes of it; a pi0.5 that was trained with
the state in its prompt reads both as one text.
"""

from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from mjx_serl.nets.vla.config import VLAConfig
from scenes.contract.errors import InputError
from scenes.contract.language import PAD, Tokenizer, cleaned, filled_up, tokens_of

_BINS = 256  # of a number of the state


class PromptTokenizer(Tokenizer, Protocol):
    """A tokenizer that can begin a text without ending it."""

    def begin(self, text: str) -> list[int]:
        """Return the numbers of a text after which more could come."""
        ...


def prompt_tokens(
    config: VLAConfig,
    tokenizer: PromptTokenizer,
    text: str,
    *,
    state: Float[NDArray, " S"] | None = None,
) -> tuple[Int[NDArray, " L"], Bool[NDArray, " L"]]:
    """Return the numbers of a prompt, filled up to the tokenizer's slots, and which count.

    Args:
        config: of the policy.
        tokenizer: that it was trained with.
        text: what to do.
        state: normalised, and not padded, where a pi0.5 reads it in the prompt.

    Raises:
        InputError: the prompt is too long, or the policy knows fewer numbers. openpi cuts off
            what is too long, and with it the prompt's end.
    """
    if tokenizer.vocab_size > config.vocabulary:
        raise InputError(
            f"The tokenizer has {tokenizer.vocab_size} words, the policy knows {config.vocabulary}"
        )
    if state is None:
        ids = tokens_of(tokenizer, text)
    elif config.pi05:
        prompt = state_prompt(text, state)
        ids = filled_up(tokenizer, tokenizer.begin(prompt), prompt)
    else:
        raise InputError("pi0 reads the state itself, allowed: a state in the prompt of pi0.5")
    return ids, ids != PAD


def state_prompt(text: str, state: Float[NDArray, " S"]) -> str:
    """Return the text that a pi0.5 reads: what to do, and the state in bins of [-1, 1].

    Bins are 0 to 255, and -1 for what is less, as in openpi.
    """
    edges = np.linspace(-1.0, 1.0, _BINS + 1)[:-1]
    bins = " ".join(str(number) for number in np.digitize(state, edges) - 1)
    return f"Task: {cleaned(text)}, State: {bins};\nAction: "
