"""What page and server send each other."""

import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_bridge.operators.page_wire import (
    AXES,
    BUTTONS,
    FRAME,
    ORDERS,
    FrameError,
    Order,
    pack_frame,
    pack_pictures,
    parse_frame,
    parse_message,
    unpack_pictures,
)


def test_a_frame_says_what_is_held() -> None:
    data = pack_frame(7, 1234, {"x": 1.0, "rz": -0.5}, frozenset({"close", "drive"}))
    frame = parse_frame(data)
    assert len(data) == 16 and (frame.seq, frame.sent) == (7, 1234)
    assert frame.held == {"close", "drive"}
    assert frame.axes["x"] == 1.0 and frame.axes["rz"] == pytest.approx(-0.5, abs=0.01)
    assert frame.axes["y"] == 0.0


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_whatever_comes_is_a_frame_or_an_order_or_refused(data: bytes | str) -> None:
    try:
        frame = parse_message(data)
    except FrameError:
        return
    if isinstance(frame, Order):
        assert frame.name in ORDERS and data == f"{frame.name} {frame.number}"
        return
    assert isinstance(data, bytes) and len(data) == FRAME.size
    assert set(frame.axes) == set(AXES) and all(-1 <= v <= 1 for v in frame.axes.values())
    assert frame.held <= set(BUTTONS)


@pytest.mark.parametrize(
    "text",
    [
        "replay",
        "replay -1",
        "replay 1 ",
        "replay 1000000",
        "replay \u0661",
        "erase 1",
        "delete 1\n",
    ],
)
def test_an_order_is_a_known_name_and_a_number(text: str) -> None:
    assert parse_message("replay 12") == Order("replay", 12)
    with pytest.raises(FrameError, match="allowed: replay, delete, "):
        parse_message(text)


def test_pictures_and_what_is_said_of_them_come_apart_again() -> None:
    pictures = {"front": b"\xff\xd8abc", "wrist": b""}
    said, back = unpack_pictures(pack_pictures({"id": 3, "driver": "policy"}, pictures))
    assert said == {"id": 3, "driver": "policy"} and back == pictures


def test_the_page_lists_what_the_wire_does() -> None:
    script = resources.files("robot_bridge.operators").joinpath("page.html").read_text()

    def listed(name: str) -> list[str]:
        found = re.search(rf"{name} = (\[[^\]]*\])", script)
        assert found is not None
        return re.findall(r'"(\w+)"', found[1])

    assert listed("AXES") == list(AXES)
    assert listed("BUTTONS") == list(BUTTONS)
    assert set(re.findall(r"order\(\"(\w+)\"", script)) == set(ORDERS)
    # Nothing is fetched from anywhere.
    assert not re.search(r"(src|href)\s*=|https?://(?!www\.w3)", script)
