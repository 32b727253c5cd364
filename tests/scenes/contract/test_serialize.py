from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from scenes.contract.serialize import digest, from_json, later_field, open_field, to_json


@dataclass(frozen=True)
class Before:
    width: int
    depth: int = 1


@dataclass(frozen=True)
class After:
    width: int
    depth: int = 1
    horizon: int = later_field(1)


def test_a_later_field_at_its_default_changes_no_digest():
    assert digest(Before(3)) == digest(After(3)) != digest(After(3, horizon=4))


def test_files_from_before_a_field_are_read():
    assert from_json(After, to_json(Before(3))) == After(3)
    assert from_json(After, to_json(After(3, horizon=4))) == After(3, horizon=4)


def test_other_fields_must_still_be_there():
    with pytest.raises(ValueError, match="Missing field of After: depth"):
        from_json(After, {"width": 3})


class Shelf(dict):
    def name_of(self, entry: type) -> str:
        return next(name for name, found in self.items() if found is entry)


SHELF = Shelf(before=Before, after=After)


@dataclass(frozen=True)
class Box:
    inside: Any = open_field(SHELF, After)

    @staticmethod
    def upgrade(data: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"inside": data["content"]} if "content" in data else data


@pytest.mark.parametrize("inside", [Before(1), After(1, horizon=2)])
def test_an_open_field_names_its_class(inside: Before | After):
    text = to_json(Box(inside))
    assert text["inside"]["type"] == type(inside).__name__.lower()
    assert from_json(Box, text) == Box(inside)


def test_an_open_field_refuses_what_has_no_type():
    with pytest.raises(ValueError, match="Field 'inside': got .*, allowed: an object with its typ"):
        from_json(Box, {"inside": {"width": 1}})


def test_what_earlier_versions_wrote_is_upgraded():
    assert from_json(Box, {"content": to_json(Box(Before(4)))["inside"]}) == Box(Before(4))
