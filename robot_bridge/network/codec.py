"""What crosses a socket: a fixed set of messages as msgpack, and nothing that could run.

A message is `[version, kind, session, seq, t, body]`; the kinds and the fields of their bodies are
the dataclasses in KINDS. An array is one msgpack extension: its dtype (3 characters of an
allow-list), its number of axes, their lengths and its bytes. Every refusal is a CodecError.
"""

import functools
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robot_bridge.messages import Command, Notice, Source, Tick
from robot_bridge.reasons import Phase, Reason
from scenes.contract.arrays import array_of
from scenes.contract.errors import InputError
from scenes.contract.extras import require

VERSION = 1
MAX_BYTES = 8 * 2**20  # of a message and so of an array [bytes] (reference robot_bridge.md 4.3)
MAX_NDIM = 5
_ARRAY = 1  # our code among msgpack's extension types

Role = Literal["observe", "command", "admin"]


class CodecError(InputError):
    """What came is no message of ours; one line that says what is wrong."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a message from a copy of it.

    Attributes:
        session: nonce that the server gave.
        seq: grows within a session.
        t: when it was sent, on the receiver's clock as well as the sender knows it [s].
    """

    session: bytes = b""
    seq: int = 0
    t: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """A peer comes.

    Attributes:
        name: for people.
        sent: on its own clock [s].
        ticket: secret that the bridge gave to a process that it has started, else empty.
    """

    name: str
    sent: float
    ticket: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Welcome:
    """The server knows the peer.

    Attributes:
        session: nonce of the peer's session.
        role: what the peer may do.
        sent: of its Hello [s].
        now: on the server's clock [s].
        contract: digest of what the arm is commanded by, empty where it does not say.
    """

    session: bytes
    role: Role
    sent: float
    now: float
    contract: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """A peer lives.

    Attributes:
        sent: on its own clock [s].
        want: what it asks to command, or to go on commanding.
    """

    sent: float
    want: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulse:
    """How the bridge is, in answer to a Beat.

    Attributes:
        sent: of the Beat [s].
        now: on the server's clock [s].
        granted: what the peer may command for the next second.
        refused: why it may not, by source.
        holders: names by source.
        phase: of the newest Tick.
        reasons: of the newest Tick.
        tick: index of the newest Tick.
        counters: what was rejected so far, by kind.
    """

    sent: float
    now: float
    granted: tuple[Source, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    holders: Mapping[str, str] = field(default_factory=dict)
    phase: Phase | None = None
    reasons: Reason = Reason.NONE
    tick: int = -1
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Halt:
    """Fault the bridge; needs no lease.

    Attributes:
        reasons: why.
        protective: by the arm's own stop.
    """

    reasons: Reason
    protective: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A message was not taken.

    Attributes:
        kind: as counted.
        text: for people.
    """

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A batch of an actor's transitions.

    Attributes:
        run: nonce of the actor's numbering.
        id: counts its batches.
        arrays: [T, ...] by name.
        t: when they were handed over, on the actor's clock since the epoch [s]; 0 does not say.
    """

    run: bytes
    id: int
    arrays: Mapping[str, NDArray[Any]]
    t: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What an actor has sent and knows.

    Attributes:
        run: nonce of its process.
        first: oldest batch that it still holds.
        version: of its parameters.
        part: which piece of the next ones it wants.
        sent: on its clock since the epoch [s]; 0 asks for no time.
        offset: the learner's clock minus its own, as far as it knows [s].
        round_trip: of that [s], negative while it does not know.
    """

    run: bytes
    first: int
    version: int
    part: int = 0
    sent: float = 0.0
    offset: float = 0.0
    round_trip: float = -1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What the learner has of a run.

    Attributes:
        run: nonce of the actor's numbering.
        id: all batches up to it are on the learner's disk.
        have: those up to it have come.
        version: of the newest parameters.
        learned: the newest parameters have learned from all batches up to it.
        behind: more has come than the learner wants to have in front of it.
        sync: it wants to have learned from everything before an actor goes on.
        sent: of the Ask that it answers, on the actor's clock [s]; 0 answers none.
        came, now: when that came and this left, on the learner's clock since the epoch [s].
    """

    run: bytes
    id: int
    have: int
    version: int
    learned: int = -1
    behind: bool = False
    sync: bool = False
    sent: float = 0.0
    came: float = 0.0
    now: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A piece of a version of the parameters.

    Attributes:
        version: of the parameters.
        part: number of the piece.
        parts: how many there are.
        digest: sha256 of all pieces together.
        data: the piece.
        published: when the version was, on the learner's clock since the epoch [s].
    """

    version: int
    part: int
    parts: int
    digest: bytes
    data: bytes
    published: float = 0.0


KINDS: dict[str, type] = {
    kind.__name__.lower(): kind
    for kind in (
        *(Hello, Welcome, Beat, Pulse, Command, Notice, Halt, Refusal, Tick),
        *(Rows, Ask, Taken, Part),
    )
}
_NAMES = {kind: name for name, kind in KINDS.items()}


def encode(message: Any, stamp: Stamp = Stamp()) -> bytes:
    """Write a message of KINDS; CodecError for anything else, and for what is too large."""
    name = _NAMES.get(type(message))
    if name is None:
        allowed = ", ".join(KINDS)
        raise CodecError(f"No message: {type(message).__name__}; allowed: {allowed}")
    envelope = (VERSION, name, stamp.session, stamp.seq, stamp.t, message)
    try:
        data = _encoder().encode(envelope)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError(f"Cannot write a '{name}': {error}") from None
    return check_size(data)


def decode(data: bytes, kinds: Collection[str] | None = None) -> tuple[Any, Stamp]:
    """Read a message and its stamp; CodecError says what is wrong with it.

    Arrays own their memory. kinds: names that are acceptable here, None for all.
    """
    check_size(data)
    version, name, session, seq, t, body = _read(_envelope(), data, "envelope")
    if version != VERSION:
        raise CodecError(f"Version of the protocol: got {version}, allowed: {VERSION}")
    allowed = KINDS if kinds is None else kinds
    if name not in allowed or name not in KINDS:
        raise CodecError(f"Kind of message: got {name[:40]!r}, allowed: {', '.join(allowed)}")
    return _read(_decoder(name), body, f"'{name}'"), Stamp(session, seq, t)


def check_size(data: bytes, most: int = MAX_BYTES) -> bytes:
    """Return `data`, or CodecError when it is longer than `most` [bytes]."""
    if len(data) > most:
        raise CodecError(f"Size of a message: got {len(data)} bytes, allowed: {most}")
    return data


def pack_array(array: NDArray[Any]) -> bytes:
    """An array as dtype, axes, lengths and bytes, in C order; CodecError for other dtypes."""
    kind = array.dtype.newbyteorder("<").str
    _check_dtype(kind)
    if array.ndim > MAX_NDIM:
        raise CodecError(f"Axes of an array: got {array.ndim}, allowed: {MAX_NDIM}")
    head = struct.pack(f"<3sB{array.ndim}I", kind.encode(), array.ndim, *array.shape)
    return head + np.asarray(array, kind).tobytes()


def unpack_array(data: bytes | memoryview) -> NDArray[Any]:
    """Read what `pack_array` wrote; the array owns its memory. CodecError names what is wrong."""
    if len(data) < 4:
        raise CodecError(f"Head of an array: got {len(data)} bytes, allowed: at least 4")
    raw, ndim = struct.unpack_from("<3sB", data)
    kind = raw.decode("ascii", errors="replace")
    _check_dtype(kind)
    if ndim > MAX_NDIM or len(data) < 4 + 4 * ndim:
        raise CodecError(f"Axes of an array: got {ndim} in {len(data)} bytes, most: {MAX_NDIM}")
    shape = struct.unpack_from(f"<{ndim}I", data, 4)
    return array_of(data[4 + 4 * ndim :], kind, shape, error=CodecError).copy()


def _check_dtype(kind: str) -> None:
    array_of(b"", kind, (0,), error=CodecError)


def _read(decoder: Any, data: Any, what: str) -> Any:
    try:
        return decoder.decode(data)
    except CodecError:
        raise
    # msgspec: DecodeError is a ValueError; hostile nesting and enums end in the others.
    except (ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise CodecError(f"Not a message ({what}): {str(error)[:200]}") from None


def _msgpack() -> Any:
    return require("msgspec", "bridge").msgpack


@functools.cache
def _encoder() -> Any:
    return _msgpack().Encoder(enc_hook=_write_special)


@functools.cache
def _envelope() -> Any:
    raw = require("msgspec", "bridge").Raw
    return _msgpack().Decoder(tuple[int, str, bytes, int, float, raw])


@functools.cache
def _decoder(name: str) -> Any:
    return _msgpack().Decoder(KINDS[name], ext_hook=_read_extension, dec_hook=_read_special)


def _write_special(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _msgpack().Ext(_ARRAY, pack_array(value))
    if isinstance(value, np.generic):
        return value.item()
    raise CodecError(f"Value of a message: got {type(value).__name__}, allowed: plain and arrays")


def _read_extension(code: int, data: memoryview) -> NDArray[Any]:
    if code != _ARRAY:
        raise CodecError(f"Extension of msgpack: got {code}, allowed: {_ARRAY}")
    return unpack_array(data)


def _read_special(kind: Any, value: Any) -> Any:
    """Let arrays through where a field is one; msgspec asks for each, and for nothing else."""
    if not isinstance(value, np.ndarray):
        raise CodecError(f"Field of a message: got {type(value).__name__}, allowed: an array")
    return value
