"""Files and folders that appear whole or not at all, whatever happens to process or disk."""

import errno
import functools
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(
    path: Path, data: bytes | str, *, overwrite: bool = True, mode: int = 0o666
) -> None:
    """Write a file; see `new_file`."""
    with new_file(path, overwrite=overwrite, mode=mode) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


@functools.cache
def usable_cache(path: Path) -> Path:
    """Return a folder to keep things in, made now: `path`, else one in the temporary folder.

    That it is another one is said on stderr, once. It belongs to this user alone: what is kept may
    be programs.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        other = _own_temporary(path.name)
        sys.stderr.write(f"Cannot write in {path} ({error.strerror}): using {other}\n")
        return other


def user_cache() -> Path:
    """Where we keep what can be made again: $XDG_CACHE_HOME/mjx_serl, else ~/.cache/mjx_serl.

    A temporary folder where that cannot be written.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return usable_cache(Path(root) / "mjx_serl")


def checkout() -> Path | None:
    """The folder with our source, or None where we were installed from a wheel."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None


def _own_temporary(name: str) -> Path:
    path = Path(tempfile.gettempdir()) / f"mjx_serl-{os.getuid()}-{name}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if path.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix="mjx_serl-"))
    return path


@contextmanager
def new_file(path: Path, *, overwrite: bool = True, mode: int = 0o666) -> Iterator[Path]:
    """Give an empty file beside `path` to write; it becomes `path` where the block does not raise.

    It is on the disk before it has its name. Folders above it must exist.

    Args:
        path: of the file.
        overwrite: replace a file that is there; otherwise FileExistsError, also where the file has
            come in the meantime.
        mode: permissions, of which the process's umask takes its own.
    """
    if not overwrite:
        _require_absent(path)
    part = _begin(path, mode)
    try:
        yield part
        sync(part)
        _name(part, path, overwrite=overwrite)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill; it becomes `path` where the block does not raise.

    All files in it are on the disk before it has its name. FileExistsError where `path` is there.
    """
    _require_absent(path)
    part = _beside(path)
    part.mkdir()
    try:
        yield part
        for inside in part.rglob("*"):
            sync(inside)
        sync(part)
        _require_absent(path)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; nobody may write there now."""
    for part in folder.glob(".*.tmp-*"):
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return once a file, or the list of a folder's files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_writable(path: Path) -> None:
    """Raise now, before any work is done, the OSError that writing a file there will raise."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    _begin(path, 0o600).unlink()


def _begin(path: Path, mode: int) -> Path:
    """Make the empty file that becomes `path`."""
    part = _beside(path)
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    except OSError as error:
        # Of the file that was asked for, not of one that nobody knows.
        raise OSError(error.errno, error.strerror, str(path)) from error
    return part


def _beside(path: Path) -> Path:
    # Two processes that write the same file must not write the same part.
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")


def _name(part: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        part.replace(path)
        return
    # Unlike a rename, a link refuses to replace what another process has put there meanwhile.
    try:
        os.link(part, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # a file system without links, such as a memory stick's
        _require_absent(path)
        part.rename(path)


def _require_absent(path: Path) -> None:
    if os.path.lexists(path):
        raise _exists(path)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} exists and is never overwritten")
