"""Compile a small C++ library on first use and keep it in the user's cache.

The one way in which our packages get native code. A library's file name carries a hash of all
that decides its content, so a changed source or an upgraded dependency builds anew.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scenes.contract.files import new_file, user_cache


class NativeBuildError(RuntimeError):
    """The library cannot be built here; the message is one line and says why."""


@dataclass(frozen=True, kw_only=True)
class NativeLibrary:
    """What to compile.

    Attributes:
        name: beginning of the file's name.
        sources: the first is compiled; all decide whether an old library still fits.
        flags: of the compiler, on top of C++17 and a shared library.
        includes: folders of other projects' headers.
        link: libraries and linker flags, after the source.
        versions: of what it is built against.
        otherwise: what happens without the library, for error messages.
    """

    name: str
    sources: tuple[Path, ...]
    flags: tuple[str, ...]
    includes: tuple[str, ...]
    link: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    otherwise: str = ""


def build(library: NativeLibrary) -> Path:
    """Path of the library, compiled now where the cache lacks it; raises NativeBuildError."""
    path = user_cache() / f"{library.name}-{_key(library)}.so"
    if path.exists():
        return path
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NativeBuildError(f"no C++ compiler (g++ or clang++): {library.otherwise}")
    # Another process may build at the same time: each writes its own file, the rename decides.
    with new_file(path, mode=0o777) as part:
        command = [compiler, *_arguments(library), str(library.sources[0]), "-o", str(part)]
        reason = _run([*command, *library.link])
        if reason:
            raise NativeBuildError(f"{compiler} failed ({reason}): {library.otherwise}")
    return path


def announce(what: str, build_now: Callable[[], Path]) -> int:
    """Build ahead of the first run and print where, or in one line why not; returns 0.

    A machine without a compiler is not an error.
    """
    try:
        sys.stdout.write(f"{what}: {build_now()}\n")
    except NativeBuildError as error:
        sys.stdout.write(f"{what}: {error}\n")
    return 0


def _run(command: list[str]) -> str:
    """Empty where the command succeeds, else the last thing it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    said = done.stderr.strip().splitlines() or ["no message"]
    return said[-1] if done.returncode else ""


def _arguments(library: NativeLibrary) -> list[str]:
    includes = [f"-isystem{folder}" for folder in library.includes]
    return ["-std=c++17", "-shared", "-fPIC", "-w", *library.flags, *includes]


def _key(library: NativeLibrary) -> str:
    parts = [source.read_bytes() for source in library.sources]
    words = [*_arguments(library), *library.link, *library.versions, platform.machine()]
    parts += [word.encode() for word in words]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
