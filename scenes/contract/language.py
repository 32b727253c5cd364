"""What a policy is told in words, and the numbers that stand for the words.

A tokenizer is chosen by name; the bridge, which has no JAX, makes the same numbers of a text as the
simulator. They fill `slots` places, the rest of which is `PAD`, so that a mask is `ids != PAD`.
"""

import dataclasses
import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.ranges import require_number
from scenes.contract.registry import Registry
from scenes.contract.specs import ObsField

INSTRUCTION = "instruction"  # what the observation of it is called
PAD = 0  # fills the slots behind a text; no text has it in it
MOST_SLOTS = 1024
MOST_TEXT = 2000  # of an instruction [characters]
MOST_MODEL = 64 << 20  # of a tokenizer's file [bytes]; PaliGemma's has 4 MB


class Tokenizer(Protocol):
    """Makes whole numbers of a text."""

    @property
    def vocab_size(self) -> int:
        """All numbers are below it."""
        ...

    @property
    def slots(self) -> int:
        """Most numbers that a text may become."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text, as many as it takes, without `PAD`."""
        ...


# From the slots and the bytes of the tokenizer's file, b"" where it was given none.
TokenizerMaker = Callable[[int, bytes], Tokenizer]
TOKENIZERS: Registry[TokenizerMaker] = Registry("tokenizer")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How words become numbers.

    Attributes:
        name: bytes (UTF-8, no file needed), words (a number for each, no file needed) or
            sentencepiece (a file of that library, such as PaliGemma's, which openpi's policies
            read).
        slots: numbers of an instruction; a longer one is refused, a shorter one is filled up.
        model: file of the tokenizer, where it has one.
        digest: sha256 of that file when the run began, which the run fills in; one that has changed
            since is refused.
    """

    name: str = "bytes"
    slots: int = 64
    model: Path | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        require_number("tokenizer.slots", self.slots, least=1, most=MOST_SLOTS, whole=True)

    def build(self) -> Tokenizer:
        """Return the tokenizer.

        Raises UnknownNameError, and InputError where its file is not there, another one than
        before, or not needed.
        """
        make = TOKENIZERS[self.name]
        return make(self.slots, self._read())

    def pinned(self) -> "TokenizerConfig":
        """Return it with the absolute path and the digest of its file; errors as of `build`."""
        if self.model is None:
            return self
        found = hashlib.sha256(self._read()).hexdigest()
        return dataclasses.replace(self, model=self.model.resolve(), digest=found)

    @property
    def anywhere(self) -> "TokenizerConfig":
        """Return it without the path, which is another one on another machine."""
        return dataclasses.replace(self.pinned(), model=None)

    def _read(self) -> bytes:
        if self.model is None:
            if self.digest:
                raise InputError(
                    f"Tokenizer '{self.name}' needs the file with SHA256 {self.digest[:12]}...; "
                    "name it with --tokenizer-model FILE"
                )
            return b""
        if not self.model.is_file():
            raise InputError(f"Tokenizer '{self.name}': there is no file {self.model}")
        if self.model.stat().st_size > MOST_MODEL:
            raise InputError(f"{self.model} has over {MOST_MODEL} bytes, allowed: less")
        data = self.model.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if self.digest not in ("", found):
            raise InputError(
                f"{self.model} is another tokenizer than was trained with: SHA256 {found[:12]}..., "
                f"allowed: {self.digest[:12]}..."
            )
        return data


BYTES = TokenizerConfig()


@dataclass(frozen=True, kw_only=True)
class Language:
    """How a policy is told what to do.

    Attributes:
        tokenizer: that it was trained with.
        instruction: what it is told unless somebody says otherwise.
    """

    tokenizer: TokenizerConfig
    instruction: str

    def told(self, text: str = "", *, model: Path | None = None) -> NDArray[np.int32]:
        """Return the observation [slots] of a text, of the usual one where there is none.

        Raises InputError for a text that does not fit, or a tokenizer without its file.

        Args:
            text: the instruction.
            model: the tokenizer's file on this machine.
        """
        config = dataclasses.replace(self.tokenizer, model=model)
        return tokens_of(config.build(), text or self.instruction)


def tokens_of(tokenizer: Tokenizer, text: str) -> NDArray[np.int32]:
    """Return the numbers of a text, filled up to [slots], read-only; InputError if too many."""
    words = cleaned(text)
    return filled_up(tokenizer, tokenizer.encode(words), words)


def filled_up(tokenizer: Tokenizer, ids: list[int], words: str) -> NDArray[np.int32]:
    """Return numbers that a tokenizer made of words, filled up; InputError as of `tokens_of`."""
    if len(ids) > tokenizer.slots:
        raise InputError(
            f"Instruction '{words[:60]}' takes {len(ids)} numbers, allowed: {tokenizer.slots}; "
            "make it shorter, or train with more --tokenizer.slots"
        )
    if not all(PAD < number < tokenizer.vocab_size for number in ids):
        allowed = f"{PAD + 1} to {tokenizer.vocab_size - 1}"
        raise InputError(f"Tokenizer: '{words[:60]}' became {ids}, allowed: {allowed}")
    filled = np.full(tokenizer.slots, PAD, np.int32)
    filled[: len(ids)] = ids
    filled.setflags(write=False)
    return filled


def cleaned(text: str) -> str:
    """Return a text on one line, its words one space apart, without underscores (as openpi does).

    Raises InputError where nothing is left, or it is too long.
    """
    if len(text) > MOST_TEXT:
        raise InputError(f"An instruction of {len(text)} characters, allowed: up to {MOST_TEXT}")
    words = " ".join(text.replace("_", " ").split())
    if not words:
        raise InputError("An instruction without a word, allowed: one or more")
    return words


def instruction_field(tokenizer: Tokenizer) -> ObsField:
    """Return what is said of the observation of an instruction."""
    return ObsField(
        name=INSTRUCTION,
        shape=(tokenizer.slots,),
        dtype="int32",
        unit="1",
        scale=float(tokenizer.vocab_size),
        modality="tokens",
    )


@dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8, a number for each byte, and one for the end: ByT5's numbering (pad, end, unknown)."""

    slots: int
    vocab_size: int = 3 + 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes and the end."""
        return [*self.begin(text), 1]

    def begin(self, text: str) -> list[int]:
        """Return the bytes alone."""
        return [3 + byte for byte in text.encode()]


@TOKENIZERS.register("bytes")
def _bytes(slots: int, model: bytes) -> Tokenizer:
    if model:
        raise InputError("Tokenizer 'bytes' with a file, allowed: without --tokenizer.model")
    return ByteTokenizer(slots)


@dataclass(frozen=True)
class WordTokenizer:
    """A number for each word by its checksum, and one for the end: few numbers, and no file.

    Capitals and punctuation do not count. Of many words two may share a number; a word that nobody
    trained with has a number that says nothing.
    """

    slots: int
    vocab_size: int = 512

    def encode(self, text: str) -> list[int]:
        """Return the words and the end."""
        return [*self.begin(text), 1]

    def begin(self, text: str) -> list[int]:
        """Return the words alone."""
        words = re.findall(r"\w+", text.lower())
        return [2 + zlib.crc32(word.encode()) % (self.vocab_size - 2) for word in words]


@TOKENIZERS.register("words")
def _words(slots: int, model: bytes) -> Tokenizer:
    if model:
        raise InputError("Tokenizer 'words' with a file, allowed: without --tokenizer.model")
    return WordTokenizer(slots)


class SentencePieceTokenizer:
    """A model of the sentencepiece library: start, pieces and a line's end, as openpi's pi0 reads.

    Args:
        slots: most numbers of a text.
        model: bytes of the model's file.
    """

    def __init__(self, slots: int, model: bytes) -> None:
        library = require("sentencepiece", "vla", purpose="Tokenizer 'sentencepiece'")
        try:
            self._pieces = library.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise InputError(f"The file is no model of sentencepiece: {error}") from None
        self.slots = slots

    @property
    def vocab_size(self) -> int:
        """Pieces of the model."""
        return self._pieces.vocab_size()

    def encode(self, text: str) -> list[int]:
        """Return start, pieces and a line's end."""
        return [*self.begin(text), *self._pieces.encode("\n")]

    def begin(self, text: str) -> list[int]:
        """Return start and pieces, as openpi's pi0.5 reads a prompt with the state in it."""
        return list(self._pieces.encode(text, add_bos=True))


@TOKENIZERS.register("sentencepiece")
def _sentencepiece(slots: int, model: bytes) -> Tokenizer:
    if not model:
        raise InputError(
            "Tokenizer 'sentencepiece' without a file, allowed: with --tokenizer.model FILE"
        )
    return SentencePieceTokenizer(slots, model)
