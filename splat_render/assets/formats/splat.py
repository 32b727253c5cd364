"""antimatter15's .splat: 32 bytes a splat, no header, harmonics of degree 0.

Position and scale are three little-endian float32 each; colour, opacity and the quaternion (wxyz,
127.5 + 127.5 q) are bytes. As github.com/antimatter15/splat writes it.
"""

from pathlib import Path

import numpy as np

from scenes.contract.errors import InputError
from splat_render.assets.formats.stored import StoredSplats, check_count
from splat_render.types import SH_C0

_ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def read_splat(path: Path) -> StoredSplats:
    """Return the splats of a .splat file; InputError where it is none."""
    size = path.stat().st_size
    if size % _ROW.itemsize:
        raise InputError(
            f"has {size} bytes, needed: a multiple of {_ROW.itemsize}; it is truncated"
        )
    check_count(size // _ROW.itemsize)
    rows = np.memmap(path, _ROW, "r")
    rgba = rows["rgba"].astype(np.float32) / 255
    return StoredSplats(
        means=rows["mean"].astype(np.float32),
        quats=(rows["quat"].astype(np.float32) - 128) / 128,
        scales=rows["scale"].astype(np.float32),
        opacities=rgba[:, 3],
        sh=((rgba[:, None, :3] - 0.5) / SH_C0).astype(np.float32),
    )
