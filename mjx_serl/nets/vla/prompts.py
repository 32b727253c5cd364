"""Prompts as numbers: the formats of pi0 and pi0.5, and what cuts text into words.

Formats as openpi's `PaligemmaTokenizer` (reference vla_and_real2sim.md 4.1). Its vocabulary is a
SentencePiece model of Google that is not ours to ship; a policy that learns from nothing does as
well with bytes.
"""

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from mjx_serl.nets.vla.config import VLAConfig
from scenes.contract.errors import InputError
from scenes.contract.extras import require

MAX_BYTES = 64 << 20  # of a SentencePiece model; PaliGemma's has 4 MB
_BINS = 256  # of a number of the state


class Tokenizer(Protocol):
    """What cuts text into words that are numbers."""

    @property
    def begin(self) -> int:
        """The word that begins a prompt."""
        ...

    @property
    def vocabulary(self) -> int:
        """How many words there are."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the words of a text."""
        ...


class ByteTokenizer:
    """Each byte of UTF-8 is a word, after three that stand for padding, end and beginning."""

    begin = 2
    vocabulary = 3 + 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes, moved by three."""
        return [3 + byte for byte in text.encode()]


class SentencePieceTokenizer:
    """The words of a SentencePiece model; use `load_sentencepiece`."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.begin: int = processor.bos_id()
        self.vocabulary: int = processor.vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return the words, none added."""
        return list(self._processor.encode(text))


def load_sentencepiece(path: Path, *, sha256: str) -> SentencePieceTokenizer:
    """Read a model; another vocabulary than the policy's would pass for it unnoticed.

    Raises:
        InputError: there is no such file, or it is another one.
        MissingPackageError: sentencepiece is not installed.
    """
    if not path.is_file():
        raise InputError(f"No SentencePiece model {path}: give the file that the policy came with")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path} has {size} bytes, allowed are {MAX_BYTES}")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256.lower():
        raise InputError(f"{path} has sha256 {found}, allowed: {sha256}")
    package = require("sentencepiece", "vla", purpose="A SentencePiece model")
    try:
        return SentencePieceTokenizer(package.SentencePieceProcessor(model_proto=data))
    except RuntimeError as error:
        raise InputError(f"{path} is no SentencePiece model: {error}") from error


def tokenize(
    config: VLAConfig,
    tokenizer: Tokenizer,
    text: str,
    *,
    state: Float[NDArray, " S"] | None = None,
) -> tuple[Int[NDArray, " L"], Bool[NDArray, " L"]]:
    """Return the words of a prompt and where they are, padded to the policy's slots.

    Args:
        config: of the policy.
        tokenizer: that it was trained with.
        text: what to do.
        state: normalised, and not padded, where a pi0.5 reads it in the prompt.

    Raises:
        InputError: the prompt is too long, or the policy has too few words. openpi cuts off what
            is too long, and with it the prompt's end.
    """
    if tokenizer.vocabulary > config.vocabulary:
        raise InputError(
            f"The tokenizer has {tokenizer.vocabulary} words, the policy knows {config.vocabulary}"
        )
    words = _words(config, tokenizer, text, state)
    if len(words) > config.prompt:
        raise InputError(
            f"The prompt {text!r} has {len(words)} words, allowed: {config.prompt} (prompt, which "
            "no parameter depends on)"
        )
    padded = np.zeros(config.prompt, np.int32)
    padded[: len(words)] = words
    return padded, np.arange(config.prompt) < len(words)


def _words(
    config: VLAConfig, tokenizer: Tokenizer, text: str, state: Float[NDArray, " S"] | None
) -> list[int]:
    said = text.strip().replace("_", " ").replace("\n", " ")
    if state is None:
        # The line's end apart: a vocabulary could join it to the word before.
        return [tokenizer.begin, *tokenizer.encode(said), *tokenizer.encode("\n")]
    if not config.pi05:
        raise InputError("pi0 reads the state itself, allowed: a state in the prompt of pi0.5")
    bins = " ".join(str(number) for number in state_bins(state))
    return [tokenizer.begin, *tokenizer.encode(f"Task: {said}, State: {bins};\nAction: ")]


def state_bins(state: Float[NDArray, " S"]) -> Int[NDArray, " S"]:
    """Numbers in [-1, 1] as 0 to 255; -1 for what is less, as in openpi."""
    return np.digitize(state, np.linspace(-1.0, 1.0, _BINS + 1)[:-1]) - 1
