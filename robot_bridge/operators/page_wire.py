"""What page and server send each other: the state of keys and sticks, orders, and pictures.

Of keys the state goes up, not events: a lost frame is made good by the next, and silence means let
go. What is chosen with the mouse is an order, told once.
"""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# seq u32, the page's clock u32 [ms], buttons u16, axes 6 x i8; little-endian.
FRAME = struct.Struct("<IIH6b")
FULL = 127.0
AXES = ("x", "y", "z", "rx", "ry", "rz")
# Bits of `buttons`, in their order: the page's script has the same list.
# "awake" is held while somebody is at the page, "mark" while what is seen is a success; "stop"
# stops a real arm.
BUTTONS = ("close", "open", "drive", "success", "failure", "cut", "undo", "awake", "mark", "stop")
# Orders: to show an episode of the file or delete one; the world to drive; whether the training
# waits while somebody drives.
ORDERS = ("replay", "delete", "world", "pause")
_ORDER = re.compile(r"([a-z]{1,16}) ([0-9]{1,6})")
_LENGTH = struct.Struct("<I")


class FrameError(ValueError):
    """No frame and no order of the page's."""


@dataclass(frozen=True, slots=True)
class InputFrame:
    """What is held on the page at one moment.

    Attributes:
        seq: number of the frame.
        sent: when, by the page's clock [ms].
        axes: pushed, by name, in [-1, 1].
        held: names of buttons.
    """

    seq: int
    sent: int
    axes: Mapping[str, float]
    held: frozenset[str]


@dataclass(frozen=True, slots=True)
class Order:
    """What was chosen on the page.

    Attributes:
        name: one of `ORDERS`.
        number: of what, below a million.
    """

    name: str
    number: int


def parse_message(data: bytes | str) -> InputFrame | Order:
    """Read what a page sends, a frame or as text an order; FrameError for anything else."""
    if isinstance(data, bytes):
        return parse_frame(data)
    found = _ORDER.fullmatch(data)
    if found is None or found[1] not in ORDERS:
        raise FrameError(f"orders are a name and a number, allowed: {', '.join(ORDERS)}")
    return Order(found[1], int(found[2]))


def parse_frame(data: bytes) -> InputFrame:
    """Read a frame; FrameError for anything else."""
    if len(data) != FRAME.size:
        raise FrameError(f"a frame has {FRAME.size} bytes, got {len(data)}")
    seq, sent, buttons, *axes = FRAME.unpack(data)
    if buttons >> len(BUTTONS):
        raise FrameError(f"buttons {buttons:#x}, allowed: {len(BUTTONS)} bits")
    held = frozenset(name for bit, name in enumerate(BUTTONS) if buttons >> bit & 1)
    pushed = {name: max(-1.0, value / FULL) for name, value in zip(AXES, axes, strict=True)}
    return InputFrame(seq, sent, pushed, held)


def pack_frame(seq: int, sent: int, axes: Mapping[str, float], held: frozenset[str]) -> bytes:
    """Return what the page's script sends."""
    buttons = sum(1 << bit for bit, name in enumerate(BUTTONS) if name in held)
    return FRAME.pack(seq, sent, buttons, *(round(FULL * axes.get(name, 0.0)) for name in AXES))


def pack_pictures(said: Mapping[str, Any], pictures: Mapping[str, bytes]) -> bytes:
    """Join what is said and encoded pictures: length of the JSON u32, JSON, the pictures."""
    sizes = {name: len(data) for name, data in pictures.items()}
    head = json.dumps({**said, "pictures": sizes}).encode()
    return b"".join((_LENGTH.pack(len(head)), head, *pictures.values()))


def unpack_pictures(message: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what is said, and the encoded pictures by name."""
    (size,) = _LENGTH.unpack_from(message)
    start = _LENGTH.size + size
    said, pictures = json.loads(message[_LENGTH.size : start]), {}
    for name, length in said.pop("pictures").items():
        pictures[name] = message[start : start + length]
        start += length
    return said, pictures
