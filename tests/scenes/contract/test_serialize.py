from dataclasses import dataclass

import pytest

from scenes.contract.serialize import digest, from_json, later_field, to_json


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
