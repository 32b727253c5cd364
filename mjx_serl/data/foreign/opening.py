"""What a file or folder is, by what is in it."""

import zipfile
from pathlib import Path

from mjx_serl.data.foreign.lerobot import INFO, open_lerobot
from mjx_serl.data.foreign.ours import open_ours
from mjx_serl.data.foreign.robomimic import open_robomimic
from mjx_serl.data.foreign.serl import open_serl
from mjx_serl.data.foreign.source import ForeignFile
from scenes.contract.errors import InputError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_PICKLE = b"\x80"  # opcode PROTO, then the protocol; the reader knows 2 to 5
_ALLOWED = (
    "allowed: a pickle of SERL or HIL-SERL, robomimic's HDF5, a folder of LeRobotDataset v3, our "
    "own .npz"
)


def open_foreign(path: Path, *, allow_pickle: bool) -> ForeignFile:
    """Open another project's demonstrations, or ours of another task.

    Raises FileNotFoundError, and InputError for what is none or is refused (a pickle, unless they
    are allowed).
    """
    if (path / INFO).is_file():
        return open_lerobot(path)
    if path.is_dir():
        raise InputError(f"'{path}' has no {INFO}; {_ALLOWED}")
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' does not exist")
    with path.open("rb") as file:
        head = file.read(len(_HDF5))
    if head == _HDF5:
        return open_robomimic(path)
    if head[:1] == _PICKLE and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return open_serl(path, allowed=allow_pickle)
    if zipfile.is_zipfile(path):
        return open_ours(path)
    raise InputError(f"'{path}' begins with {head!r}; {_ALLOWED}")
