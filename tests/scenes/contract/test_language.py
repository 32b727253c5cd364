"""Words become the same numbers everywhere, and what does not fit is refused."""

import hashlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from scenes.contract.errors import InputError
from scenes.contract.language import (
    INSTRUCTION,
    MOST_TEXT,
    PAD,
    TOKENIZERS,
    Language,
    TokenizerConfig,
    instruction_field,
    tokens_of,
)
from scenes.contract.serialize import digest, from_json, to_json


def test_a_word_is_its_checksum():
    """CRC-32's check value is that of 123456789: 0xCBF43926, of which 510 leaves 32."""
    tokenizer = TokenizerConfig(name="words", slots=6).build()
    ids = tokens_of(tokenizer, "Put, put 123456789!")
    assert ids[0] == ids[1] and list(ids[2:]) == [34, 1, PAD, PAD]
    with pytest.raises(InputError, match="takes 7 numbers, allowed: 6"):
        tokens_of(tokenizer, "a b c d e f")
    with pytest.raises(InputError, match="'words' with a file"):
        TOKENIZERS["words"](6, b"model")


def test_a_text_is_its_bytes_an_end_and_nothing():
    tokenizer = TokenizerConfig(slots=8).build()
    # ByT5's numbers: three before the bytes, of which 1 is the end.
    assert tokens_of(tokenizer, "a é").tolist() == [100, 35, 198, 172, 1, PAD, PAD, PAD]
    assert tokenizer.vocab_size == 259
    field = instruction_field(tokenizer)
    assert (field.name, field.kind, field.dtype, field.shape) == (
        *(INSTRUCTION, "tokens", "int32"),
        (8,),
    )


def test_space_and_underscores_make_no_difference():
    tokenizer = TokenizerConfig(slots=16).build()
    wanted = tokens_of(tokenizer, "pick the cube")
    for text in (" pick the  cube\n", "pick_the_cube", "pick\nthe cube"):
        np.testing.assert_array_equal(tokens_of(tokenizer, text), wanted)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pick up the cube", "takes 17 numbers, allowed: 8"),
        (" _\n", "without a word"),
        ("x" * (MOST_TEXT + 1), "allowed: up to 2000"),
    ],
)
def test_a_text_that_does_not_fit_is_refused(text: str, said: str):
    with pytest.raises(ValueError, match=said):
        tokens_of(TokenizerConfig(slots=8).build(), text)


@dataclass(frozen=True)
class Listed:
    """A number for each word of a list."""

    slots: int
    words: tuple[str, ...]
    first: int = 1

    @property
    def vocab_size(self) -> int:
        return len(self.words) + 1

    def encode(self, text: str) -> list[int]:
        return [self.first + self.words.index(word) for word in text.split()]


@pytest.fixture
def listed(tmp_path: Path) -> Iterator[TokenizerConfig]:
    """A tokenizer with a file, of a plug-in's."""
    TOKENIZERS.register("listed")(lambda n, file: Listed(n, tuple(file.decode().split())))
    file = tmp_path / "words.txt"
    file.write_text("pick put the cube plate")
    yield TokenizerConfig(name="listed", slots=4, model=file)
    TOKENIZERS._table.pop("listed")


def test_another_tokenizer_is_told_by_its_file(listed: TokenizerConfig):
    language = Language(tokenizer=listed.anywhere, instruction="pick the cube")
    assert language.tokenizer.model is None
    assert listed.pinned().digest == language.tokenizer.digest
    assert language.told(model=listed.model).tolist() == [1, 3, 4, PAD]
    assert language.told("put", model=listed.model).tolist() == [2, PAD, PAD, PAD]
    with pytest.raises(ValueError, match="needs the file with SHA256 .*--tokenizer-model FILE"):
        language.told()
    # The same numbers in a file elsewhere, other ones in none.
    there = listed.model.with_name("there.txt")
    there.write_bytes(listed.model.read_bytes())
    assert replace(listed, model=there).anywhere == language.tokenizer
    assert digest(from_json(Language, to_json(language))) == digest(language)
    listed.model.write_text("put pick the cube plate")
    with pytest.raises(ValueError, match="another tokenizer than was trained with"):
        language.told(model=listed.model)


def test_numbers_that_no_network_expects_are_refused():
    wrong = Listed(4, ("pick",), first=PAD)
    with pytest.raises(ValueError, match="'pick' became .0., allowed: 1 to 1"):
        tokens_of(wrong, "pick")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "byte"}, "Unknown tokenizer 'byte'. Did you mean 'bytes'"),
        ({"model": Path("no.model")}, "there is no file no.model"),
        ({"name": "sentencepiece"}, "with --tokenizer.model FILE"),
        ({"slots": 0}, "tokenizer.slots 0, allowed"),
    ],
)
def test_what_is_no_tokenizer_is_told_in_a_line(config: dict, said: str):
    with pytest.raises((ValueError, KeyError), match=said):
        TokenizerConfig(**config).build()


def test_pieces_of_a_sentence_stand_between_start_and_line(tmp_path: Path, monkeypatch):
    """Of the library's interface; openpi encodes start, text and a line's end."""

    class Processor:
        def __init__(self, *, model_proto: bytes) -> None:
            if model_proto != b"pieces":
                raise RuntimeError("Internal: could not parse ModelProto")

        def vocab_size(self) -> int:
            return 300

        def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
            return [2] * add_bos + ([108] if text == "\n" else [10 + len(w) for w in text.split()])

    library = types.SimpleNamespace(SentencePieceProcessor=Processor)
    monkeypatch.setitem(sys.modules, "sentencepiece", library)
    file = tmp_path / "a.model"
    file.write_bytes(b"pieces")
    config = TokenizerConfig(name="sentencepiece", slots=6, model=file)
    assert tokens_of(config.build(), "pick the cube").tolist() == [2, 14, 13, 14, 108, PAD]
    assert config.build().begin("pick up") == [2, 14, 12]
    assert config.pinned().digest == hashlib.sha256(b"pieces").hexdigest()
    file.write_bytes(b"none")
    with pytest.raises(ValueError, match="no model of sentencepiece"):
        config.build()
