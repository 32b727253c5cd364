"""Files that appear whole or not at all, and keep the permissions that were asked for."""

import os
import stat
from pathlib import Path

import pytest

from scenes.contract.files import (
    new_file,
    new_folder,
    require_writable,
    usable_cache,
    write_atomically,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(RuntimeError), new_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    write_atomically(path, b"new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_told_before_the_work_by_its_own_name(tmp_path: Path) -> None:
    require_writable(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "nowhere" / "a.txt", tmp_path / "file" / "a.txt"):
        with pytest.raises(OSError) as early:
            require_writable(path)
        assert early.value.filename == str(path) and early.value.strerror
    with pytest.raises(FileNotFoundError) as late, new_file(tmp_path / "nowhere" / "a.txt"):
        pass
    assert late.value.filename == str(tmp_path / "nowhere" / "a.txt")


@pytest.mark.parametrize("links", [True, False])
def test_what_is_there_or_comes_meanwhile_is_kept(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda a, b: (_ for _ in ()).throw(OSError("no links")))
    path = tmp_path / "a.txt"
    kept = pytest.raises(FileExistsError, match="never overwritten")
    with kept, new_file(path, overwrite=False) as part:
        part.write_text("mine")
        path.write_text("another process's")
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_atomically(path, "mine", overwrite=False)
    assert path.read_text() == "another process's" and list(tmp_path.iterdir()) == [path]
    write_atomically(tmp_path / "b.txt", "mine", overwrite=False)
    assert (tmp_path / "b.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_atomically(link, "secret", overwrite=False)
    assert not (tmp_path / "elsewhere").exists()


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    path, before = tmp_path / "key", os.umask(0)
    try:
        with new_file(path, overwrite=False, mode=0o600) as part:
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
        write_atomically(tmp_path / "plain", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o666


def test_a_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    path = tmp_path / "made"
    with pytest.raises(RuntimeError), new_folder(path) as part:
        (part / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(path) as part:
        (part / "inside").mkdir()
        (part / "inside" / "a").write_text("whole")
        assert not path.exists()
    assert (path / "inside" / "a").read_text() == "whole" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileExistsError, match="never overwritten"), new_folder(path):
        raise AssertionError("not reached")


def test_a_cache_that_cannot_be_written_gives_way_to_one_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert usable_cache(tmp_path / "home" / "kernels") == tmp_path / "home" / "kernels"
    assert capsys.readouterr().err == ""
    (tmp_path / "file").write_text("no folder")
    wanted = tmp_path / "file" / "kernels"
    other = usable_cache(wanted)
    said = capsys.readouterr().err
    assert said.startswith(f"Cannot write in {wanted}") and str(other) in said
    assert usable_cache(wanted) == other and capsys.readouterr().err == ""  # said once
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    # One that somebody else could have filled is not used.
    other.chmod(0o777)
    usable_cache.cache_clear()
    assert usable_cache(wanted) != other
