"""Batches on an actor's disk: what a killed process leaves is sent by the next one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from robot_bridge.network.spool import Spool
from scenes.contract.errors import InputError

Spools = Callable[..., Spool]


def named(run: bytes, number: int) -> bytes:
    return run + bytes([number])


@pytest.fixture
def spool() -> Iterator[Spools]:
    """Makes spools that are closed at the end."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(closing(Spool(*args, **options)))


def test_a_new_process_goes_on_with_what_is_left(
    tmp_path: Path, spool: Callable[..., Spool]
) -> None:
    first = spool(tmp_path / "spool")
    assert all(first.add(named) for _ in range(4))
    first.drop(1)
    first.close()
    again = spool(tmp_path / "spool")
    assert again.run == first.run
    assert again.ids == [2, 3]
    assert again.first == 2
    assert again.read(3) == first.run + b"\x03"
    assert again.add(named)
    assert again.last == 4


def test_an_empty_spool_begins_to_count_anew(tmp_path: Path, spool: Spools) -> None:
    first = spool(tmp_path)
    assert first.add(named)
    first.drop(0)
    first.close()
    again = spool(tmp_path)
    assert again.run != first.run
    assert again.first == 0


def test_what_a_killed_process_had_begun_takes_no_room(tmp_path: Path, spool: Spools) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", _killed)
        patched.setattr(Path, "unlink", _killed)
        with pytest.raises(KeyboardInterrupt):
            spool(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} > {"lock"}
    spool(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "run"}


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_finds_no_room_is_not_kept(tmp_path: Path, spool: Spools) -> None:
    few = spool(tmp_path / "few", capacity=2)
    assert [few.add(named) for _ in range(3)] == [True, True, False]
    small = spool(most_bytes=20)
    assert [small.add(named) for _ in range(3)] == [True, True, False]
    few.drop(0)
    assert few.add(named)
    assert few.ids == [1, 2]


def test_one_process_at_a_time_and_no_damaged_number(
    tmp_path: Path, spool: Callable[..., Spool]
) -> None:
    mine = spool(tmp_path)
    with pytest.raises(InputError, match="Another actor uses"):
        spool(tmp_path)
    mine.add(named)
    mine.close()
    (tmp_path / "run").write_bytes(b"half")
    with pytest.raises(InputError, match="is damaged; move the folder away"):
        spool(tmp_path)


def test_files_of_others_are_left_alone(tmp_path: Path, spool: Spools) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    mine = spool(tmp_path)
    mine.add(named)
    mine.drop(0)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
