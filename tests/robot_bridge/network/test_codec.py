"""Messages survive the wire; nothing else does."""

import dataclasses
import os
import pickle
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robot_bridge.driver import ArmState, Mode, Target
from robot_bridge.messages import Command, Goal, Notice, Tick
from robot_bridge.network import codec
from robot_bridge.network.codec import CodecError, Stamp, decode, encode
from robot_bridge.reasons import Phase, Reason
from scenes.contract.arrays import DTYPES
from scenes.contract.extras import require

REALS = st.floats(allow_nan=False)
ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
)


def vectors(length: int) -> st.SearchStrategy:
    return hnp.arrays(np.float64, length, elements=REALS)


COMMANDS = st.builds(
    Command,
    seq=st.integers(0, 2**40),
    t=REALS,
    actions=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2)),
    dt=REALS,
    valid_for=REALS,
    source=st.sampled_from(["policy", "operator"]),
)
STATES = st.builds(
    ArmState,
    t=REALS,
    seq=st.integers(0, 2**40),
    q=vectors(7),
    dq=vectors(7),
    position=vectors(3),
    quat=vectors(4),
    gripper_width=REALS,
    mode=st.sampled_from(Mode),
    faults=st.lists(st.text()).map(tuple),
    tau=st.none() | vectors(7),
)
TICKS = st.builds(
    Tick,
    index=st.integers(0, 2**40),
    t=REALS,
    wall=REALS,
    phase=st.sampled_from(Phase),
    reasons=st.integers(0, 2 ** (len(Reason) - 1) - 1).map(Reason),
    state=STATES,
    goal=st.builds(Goal, position=vectors(3), quat=vectors(4), closure=REALS),
    target=st.none() | st.builds(Target, position=vectors(3), quat=vectors(4), q=vectors(7)),
    action=st.none() | hnp.arrays(np.float32, 4),
    source=st.sampled_from([None, "policy", "operator"]),
)
ROWS = st.builds(
    codec.Rows,
    run=st.binary(max_size=16),
    id=st.integers(0, 2**40),
    arrays=st.dictionaries(st.text(), ARRAYS, max_size=3),
)
NOTICES = st.builds(Notice, t=REALS, reasons=st.sampled_from(Reason))
MESSAGES = st.one_of(COMMANDS, TICKS, ROWS, NOTICES)


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if dataclasses.is_dataclass(a):
        names = [f.name for f in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    return a == b and type(a) is type(b)


@given(MESSAGES, st.binary(max_size=16), st.integers(0, 2**60))
def test_messages_come_back_as_they_were(message, session, seq):
    stamp = Stamp(session, seq, 1.5)
    back, came = decode(encode(message, stamp))
    assert same(message, back)
    assert came == stamp


@given(ARRAYS)
def test_arrays_come_back_and_own_their_memory(array):
    back = codec.unpack_array(codec.pack_array(array))
    assert same(array, back)
    assert back.flags.owndata
    assert back.flags.writeable


def test_every_kind_of_control_message_comes_back():
    for message in (
        codec.Hello(name="a", sent=1.0),
        codec.Welcome(session=b"n", role="command", sent=1.0, now=2.0, contract="c"),
        codec.Beat(sent=1.0, want=("policy",)),
        codec.Pulse(
            sent=1.0, now=2.0, refused={"policy": "held"}, counters={"late": 3}, phase=Phase.RUN
        ),
        codec.Halt(reasons=Reason.EMERGENCY_STOP | Reason.TORQUE, protective=True),
        codec.Refusal(kind="late", text="too late"),
        codec.Ask(run=b"r", first=0, version=-1),
        codec.Taken(run=b"r", id=4, have=5, version=2),
        codec.Part(version=1, part=0, parts=2, digest=b"d", data=b"x"),
    ):
        assert decode(encode(message))[0] == message


def test_arrays_are_written_in_c_order_and_little_endian():
    array = np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3))
    np.testing.assert_array_equal(codec.unpack_array(codec.pack_array(array)), array)


@given(st.binary(max_size=400))
def test_garbage_is_refused(data):
    with pytest.raises(CodecError):
        decode(data)


@given(MESSAGES, st.data())
def test_truncated_messages_are_refused(message, data):
    whole = encode(message)
    with pytest.raises(CodecError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CodecError):
        decode(whole + b"\x00")


@given(MESSAGES, st.data())
def test_a_changed_byte_is_refused_or_still_a_message(message, data):
    whole = bytearray(encode(message))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        back, _ = decode(bytes(whole))
    except CodecError:
        return
    assert type(back) in codec.KINDS.values()


class Trap:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/robot_bridge_was_here",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_never_run(protocol):
    with pytest.raises(CodecError):
        decode(pickle.dumps(Trap(), protocol))
    assert not os.path.exists("/tmp/robot_bridge_was_here")


def raw(name: str, body: object, version: int = codec.VERSION) -> bytes:
    return msgspec.msgpack.encode([version, name, b"", 0, 0.0, body])


NOTICE = {"t": 1.0, "reasons": 0}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (raw("notice", NOTICE, version=9), "Version of the protocol: got 9, allowed: 1"),
        (raw("shell", NOTICE), "Kind of message: got 'shell'"),
        (raw("notice", {"t": "soon", "reasons": 0}), "Expected `float`, got `str`"),
        (raw("notice", {"t": 1.0}), "missing required field `reasons`"),
        (raw("notice", [1]), "Expected `object`"),
        (raw("command", {"seq": 0, "t": 0.0, "actions": [1]}), "allowed: an array"),
        (raw("halt", {"reasons": 1, "protective": 1}), "Expected `bool`, got `int`"),
        (b"\x91" * 100_000, "Not a message"),
        (b"\xdd\xff\xff\xff\xff", "`array` of length 6, got 4294967295"),
        (b"\x00" * (codec.MAX_BYTES + 1), "Size of a message: got 8388609 bytes, allowed"),
    ],
)
def test_refusals_say_what_is_wrong(data, said):
    with pytest.raises(CodecError, match=said):
        decode(data)


def test_hostile_nesting_inside_a_body_is_refused():
    head = msgspec.msgpack.encode([codec.VERSION, "rows", b"", 0, 0.0])
    for bomb in (b"\x81\xa6arrays" + b"\x81\xa1a" * 100_000, b"\x81\xa1x" + b"\x91" * 100_000):
        with pytest.raises(CodecError):
            decode(b"\x96" + head[1:] + bomb)


def test_kinds_can_be_narrowed():
    data = encode(codec.Hello(name="a", sent=0.0))
    assert decode(data, ("hello",))[0].name == "a"
    with pytest.raises(CodecError, match="got 'hello', allowed: beat"):
        decode(data, ("beat",))


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (b"<f4", "Head of an array"),
        (struct.pack("<3sBI", b"|O8", 1, 1) + bytes(8), "Dtype"),
        (struct.pack("<3sBI", b"<c8", 1, 1) + bytes(8), "Dtype"),
        (struct.pack("<3sB6I", b"|u1", 6, *[1] * 6) + bytes(1), "Axes of an array: got 6"),
        (struct.pack("<3sB", b"|u1", 5), "Axes of an array: got 5 in 4 bytes"),
        (struct.pack("<3sBI", b"<f4", 1, 3) + bytes(8), "got 8 bytes, allowed: 12"),
        (struct.pack("<3sB2I", b"<f8", 2, 2**32 - 1, 2**32 - 1), "got 0 bytes"),
        (struct.pack("<3sBI", b"|b1", 1, 1) + b"\x02", "a byte above 1"),
    ],
)
def test_bad_arrays_are_refused(packed, said):
    with pytest.raises(CodecError, match=said):
        codec.unpack_array(packed)


@pytest.mark.parametrize("value", [object(), np.array([None]), np.zeros(2, complex), np.array("a")])
def test_what_is_no_plain_array_is_not_written(value):
    command = Command(seq=0, t=0.0, actions=value, dt=0.1, valid_for=0.2)
    with pytest.raises(CodecError):
        encode(command)


def test_only_messages_are_written_and_only_small_ones():
    with pytest.raises(CodecError, match="No message: dict"):
        encode({})
    big = codec.Rows(run=b"", id=0, arrays={"x": np.zeros(codec.MAX_BYTES, np.uint8)})
    with pytest.raises(CodecError, match="Size of a message"):
        encode(big)


def test_other_extensions_are_refused():
    body = {"run": b"", "id": 0, "arrays": {"a": msgspec.msgpack.Ext(5, b"x")}}
    with pytest.raises(CodecError, match="Extension of msgpack: got 5"):
        decode(raw("rows", body))


def test_a_missing_extra_is_one_line():
    with pytest.raises(ImportError, match=r"no_such_thing is needed here .*mjx-serl\[bridge\]'"):
        require("no_such_thing", "bridge")
