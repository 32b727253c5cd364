"""Recordings: all that was put in is read back, whatever happens to the process or the disk."""

import dataclasses
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import make_contract, make_header, make_obs, make_tick, record

from robot_bridge.clock import ManualClock
from robot_bridge.messages import ENDINGS
from robot_bridge.records import recorder as recorder_module
from robot_bridge.records.reader import (
    Damage,
    Episode,
    Event,
    Loss,
    RecordReader,
    TickRecord,
    episodes,
    read_recording,
)
from robot_bridge.records.recorder import FRAME, MAGIC, Recorder, new_session

CONTRACT = make_contract()
HERE = Path(__file__).resolve().parent.parent


def recorder(path: Path, **options) -> Recorder:
    return Recorder(path, make_header(CONTRACT), **options)


def same(a, b) -> bool:
    """Whether two ticks, states or arrays are equal, bit for bit."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    return type(a) is type(b) and a == b


def run_script(body: str, *arguments: object, **options) -> subprocess.Popen:
    """Start Python on a script that can import what this file can."""
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    command = [sys.executable, "-c", textwrap.dedent(body), *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, text=True, **options)


# -- round trip ----------------------------------------------------------------------------------


def test_what_is_put_in_comes_back(tmp_path: Path):
    bare = make_tick(1, target=None, source=None)
    full = make_tick(2, action=np.ones(4), policy_action=np.zeros(4, np.float32), source="operator")
    obs = make_obs(CONTRACT, 3)
    with recorder(tmp_path, clock=ManualClock(5.0)) as made:
        assert made.put(bare) and made.put(full, obs) and made.event("armed", by="me", force=2.5)
    assert (made.written, made.dropped) == (3, 0)
    read = read_recording(tmp_path)
    assert read.header == make_header(CONTRACT)
    first, second, event = read.records
    assert same(first, TickRecord(bare, None))
    assert isinstance(second, TickRecord)
    assert same(second.tick, full) and second.tick.intervened
    assert second.obs.keys() == obs.keys() and all(same(second.obs[k], obs[k]) for k in obs)
    assert event == Event("armed", 5.0, 5.0, {"by": "me", "force": 2.5})
    assert read.torn == 0


def test_numbers_that_are_none_come_back_too(tmp_path: Path):
    tick = make_tick(0, action=np.array([np.nan, np.inf, -np.inf, 1e300]))
    with recorder(tmp_path) as made:
        made.put(tick)
    assert same(read_recording(tmp_path).ticks[0].action.view(np.int64), tick.action.view(np.int64))


def test_sessions_have_a_folder_each(tmp_path: Path):
    wall = 1_790_000_000.0
    first = new_session(tmp_path / "recordings", "franka/../fr3", wall=wall)
    second = new_session(tmp_path / "recordings", "franka/../fr3", wall=wall)
    assert first.name == "2026-09-21-franka_.._fr3-1"
    assert second.name == "2026-09-21-franka_.._fr3-2"
    assert first.parent == tmp_path / "recordings" and first.is_dir()


def test_a_second_recorder_adds_parts(tmp_path: Path):
    for index in range(2):
        with recorder(tmp_path) as made:
            made.put(make_tick(index))
    assert [tick.index for tick in read_recording(tmp_path).ticks] == [0, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_parts_stay_below_their_size_and_each_says_what_it_is(tmp_path: Path):
    with recorder(tmp_path, part_bytes=20_000) as made:
        for index in range(100):
            made.put(make_tick(index), make_obs(CONTRACT, index))
    parts = sorted(tmp_path.iterdir())
    assert len(parts) > 5
    assert max(part.stat().st_size for part in parts) <= 20_000
    assert [tick.index for tick in read_recording(tmp_path).ticks] == list(range(100))
    for part in parts[:-2]:
        part.unlink()
    rest = read_recording(tmp_path)
    assert rest.header == make_header(CONTRACT) and rest.ticks[-1].index == 99


# -- crashes and damage --------------------------------------------------------------------------


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path):
    writer = run_script(
        """
        import sys
        from pathlib import Path
        from recorded import make_contract, make_header, make_obs, make_tick
        from robot_bridge.records.recorder import Recorder

        contract = make_contract(size=(128, 128))
        recorder = Recorder(Path(sys.argv[1]), make_header(contract), part_bytes=2_000_000)
        obs, index = make_obs(contract, 7), 0
        while True:
            index += recorder.put(make_tick(index), obs)
            print(recorder.written, flush=True)
        """,
        tmp_path,
        stdout=subprocess.PIPE,
    )
    written = 0
    while written < 150:
        written = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    last_said = int((writer.stdout.read().split() or [written])[-1])
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    read = read_recording(tmp_path)
    assert len(read.records) >= last_said
    assert [tick.index for tick in read.ticks] == list(range(len(read.ticks)))
    pictures = [r.obs["front"] for r in read.records if isinstance(r, TickRecord)]
    assert len(pictures) > 100 and all((picture == 7).all() for picture in pictures)


@pytest.fixture(scope="module")
def six_ticks(tmp_path_factory) -> tuple[Path, bytes]:
    """The only part of a recording of six ticks, and what was written to it."""
    path = tmp_path_factory.mktemp("torn")
    with recorder(path) as made:
        for index in range(6):
            made.put(make_tick(index))
    part = path / "part-0000.rec"
    return part, part.read_bytes()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_torn_tail_costs_only_itself(six_ticks, data):
    part, whole = six_ticks
    starts = frame_starts(whole)
    place = data.draw(st.integers(starts[1], len(whole) - 1))  # behind the header
    part.write_bytes(whole[:place])
    read = read_recording(part.parent)
    good = sum(end <= place for end in [*starts[2:], len(whole)])
    assert [tick.index for tick in read.ticks] == list(range(good))
    assert read.torn == place - starts[1 + good] and not read.damage


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_flipped_byte_costs_only_its_record_and_is_said(six_ticks, data):
    part, whole = six_ticks
    starts = [*frame_starts(whole), len(whole)]
    place = data.draw(st.integers(starts[1], len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= data.draw(st.integers(1, 255))
    part.write_bytes(bytes(flipped))
    read = read_recording(part.parent)
    hit = sum(start <= place for start in starts) - 2  # of the ticks
    assert [tick.index for tick in read.ticks] == [i for i in range(6) if i != hit]
    size = starts[hit + 2] - starts[hit + 1]
    if hit == 5:  # what no record follows cannot be told from what was being written
        assert read.torn == size and not read.damage
    else:
        assert read.damage == (Damage(part, starts[hit + 1], size),) and read.torn == 0
        assert read.records[hit] == Loss("damaged", size)


def test_a_part_that_lost_its_beginning_is_read_from_its_first_whole_record(tmp_path: Path):
    for index in range(2):
        with recorder(tmp_path) as made:
            made.put(make_tick(index))
    first = tmp_path / "part-0000.rec"
    first.write_bytes(b"\0" + first.read_bytes()[1:])
    read = read_recording(tmp_path)
    assert [tick.index for tick in read.ticks] == [0, 1]
    assert read.damage == (Damage(first, 0, len(MAGIC)),)
    data = bytearray(first.read_bytes())
    data[len(MAGIC) + FRAME.size + 4] ^= 1  # its header as well; the next part has one
    first.write_bytes(bytes(data))
    assert [tick.index for tick in read_recording(tmp_path).ticks] == [0, 1]


def test_what_only_looks_like_a_record_is_not_one(tmp_path: Path):
    with recorder(tmp_path) as made:
        made.event("one", note="kind " * 50, kind="kind")
        made.event("two")
    part = tmp_path / "part-0000.rec"
    data = bytearray(part.read_bytes())
    data[frame_starts(bytes(data))[1]] ^= 255  # the length of the first
    part.write_bytes(bytes(data))
    assert [event.name for event in read_recording(tmp_path).events] == ["two"]


def frame_starts(data: bytes) -> list[int]:
    starts, place = [], len(MAGIC)
    while place < len(data):
        starts.append(place)
        place += FRAME.size + FRAME.unpack_from(data, place)[0]
    return starts


def test_a_torn_part_does_not_hide_the_next_one(tmp_path: Path):
    for index in range(2):
        with recorder(tmp_path) as made:
            made.put(make_tick(index))
    first = tmp_path / "part-0000.rec"
    first.write_bytes(first.read_bytes()[:-5])
    assert [tick.index for tick in read_recording(tmp_path).ticks] == [1]


def test_what_is_no_recording_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no recording in"):
        read_recording(tmp_path)
    part = tmp_path / "part-0000.rec"
    part.write_bytes(b"PK\x03\x04 something else altogether")
    with pytest.raises(ValueError, match="is no part of a recording"):
        read_recording(tmp_path)
    part.write_bytes(MAGIC + b"\x10\x00")
    with pytest.raises(ValueError, match="cut off before its header"):
        read_recording(tmp_path)


@pytest.mark.parametrize(
    "array", [["|O8", [1], b"\0" * 8], ["<f8", [9], b"\0" * 8], ["V8", [1], b"\0" * 8]]
)
def test_arrays_that_lie_are_refused(tmp_path: Path, monkeypatch, array):
    with recorder(tmp_path) as made:
        made.event("x", array=array)
    with pytest.raises(ValueError, match="cannot read: array"):
        read_recording(tmp_path)


# -- never in the way ----------------------------------------------------------------------------


def test_a_full_queue_drops_and_counts_and_says_so(tmp_path: Path, monkeypatch):
    import threading

    gate, write = threading.Event(), os.write
    monkeypatch.setattr(recorder_module.os, "write", lambda f, d: gate.wait() and write(f, d))
    with recorder(tmp_path, capacity=5) as made:
        began = time.perf_counter()
        taken = [made.put(make_tick(index)) for index in range(50)]
        assert time.perf_counter() - began < 0.5
        gate.set()
    # One more than the capacity may be in the writer's hands.
    assert 5 <= sum(taken) <= 6 and made.dropped == 50 - sum(taken)
    read = read_recording(tmp_path)
    assert len(read.ticks) == sum(taken)
    losses = [r for r in read.records if isinstance(r, Loss)]
    assert losses[-1] == Loss("overflow", made.dropped)


def test_a_full_disk_is_survived(tmp_path: Path):
    """A file-size limit makes the kernel write half a record and then refuse, as full disks do."""
    writer = run_script(
        """
        import logging, resource, sys, time
        from pathlib import Path
        from recorded import make_contract, make_header, make_tick
        from robot_bridge.records.recorder import Recorder

        logging.basicConfig()
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
        recorder = Recorder(Path(sys.argv[1]), make_header(make_contract()))
        taken = [recorder.put(make_tick(i)) for i in range(100)]
        while recorder.written + recorder.dropped < 100:
            time.sleep(0.01)
        lost = recorder.dropped
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        recorder.put(make_tick(100))
        recorder.close()
        print(all(taken), lost, recorder.dropped, recorder.written)
        """,
        tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, warned = writer.communicate(timeout=60)
    assert writer.returncode == 0, warned
    taken, lost, dropped, written = said.split()
    assert (
        taken == "True" and int(lost) > 50 and dropped == lost and int(written) == 101 - int(lost)
    )
    assert warned.count("WARNING") == 1 and "control goes on without it" in warned
    read = read_recording(tmp_path)
    kept = 100 - int(lost)
    assert [tick.index for tick in read.ticks] == [*range(kept), 100]
    assert read.records[kept] == Loss("lost", int(lost)) and read.torn == 0


def test_a_disk_without_room_for_a_header_is_survived(tmp_path: Path, monkeypatch):
    def refuse(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with recorder(tmp_path) as made:
        monkeypatch.setattr(recorder_module.os, "write", refuse)
        made.put(make_tick(0))
        wait_for(lambda: made.dropped == 1)
        monkeypatch.undo()
        made.put(make_tick(1))
    assert [tick.index for tick in read_recording(tmp_path).ticks] == [1]


def test_what_cannot_be_written_is_counted(tmp_path: Path, caplog):
    with recorder(tmp_path) as made:
        made.event("strange", thing=object())
        made.put(make_tick(0), {"words": np.array(["a"], object)})
        made.put(make_tick(1))
    assert made.dropped == 2 and [t.index for t in read_recording(tmp_path).ticks] == [1]
    assert len(caplog.records) == 1 and "plain values" in caplog.text


def test_after_closing_nothing_is_taken(tmp_path: Path):
    made = recorder(tmp_path)
    made.close()
    made.close()
    assert not made.put(make_tick(0)) and made.dropped == 1


def test_put_takes_microseconds(tmp_path: Path):
    """Prints its figures under `pytest -s -k microseconds tests/robot_bridge/records`."""
    contract = make_contract(size=(128, 128))
    ticks, obs = [make_tick(index) for index in range(1000)], make_obs(contract, 1)
    took = []
    with Recorder(tmp_path, make_header(contract), capacity=5000) as made:
        for tick in ticks:
            seen = obs if tick.index % 10 == 0 else None
            began = time.perf_counter()
            made.put(tick, seen)
            took.append(time.perf_counter() - began)
            time.sleep(0.0005)  # twenty times the real rate
    assert made.dropped == 0 and len(read_recording(tmp_path).ticks) == 1000
    p99 = sorted(took)[990]
    figures = f"put: median {statistics.median(took) * 1e6:.1f} us, p99 {p99 * 1e6:.1f} us"
    sys.stdout.write(f"{figures}\n")
    assert statistics.median(took) < 20e-6


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


# -- episodes ------------------------------------------------------------------------------------


def read_episodes(path: Path) -> list[Episode]:
    return list(episodes(RecordReader(path)))


def test_episodes_pair_each_action_with_what_was_seen_before_it(tmp_path: Path):
    record(tmp_path, CONTRACT, {3: "success", 5: "failure", 4: None, 2: "reset"}, by_hand={1: -0.5})
    found = read_episodes(tmp_path)
    assert [len(e.steps) for e in found] == [3, 5, 4, 2]
    assert [e.ending for e in found] == ["success", "failure", "cut", "cut"]
    for episode in found:
        for number, step in enumerate(episode.steps):
            assert (step.obs["ee_lag"] == number).all() and (step.obs["front"] == number).all()
            by_hand = number == 1
            wanted = np.float32((number + 1) / 100)
            assert step.intervened == by_hand and step.action.dtype == np.float32
            assert (step.action == (-0.5 if by_hand else wanted)).all()
            assert (step.policy_action == wanted).all() if by_hand else step.policy_action is None


def test_an_action_out_of_range_is_recorded_as_executed(tmp_path: Path):
    with recorder(tmp_path) as made:
        made.put(make_tick(0), make_obs(CONTRACT, 0))
        made.put(make_tick(1, action=np.array([2.0, -3.0, 0.5, 0.0])))
    (episode,) = read_episodes(tmp_path)
    assert episode.steps[0].action.tolist() == [1.0, -1.0, 0.5, 0.0]


def test_lost_ticks_are_counted_in_their_episode(tmp_path: Path):
    with recorder(tmp_path) as made:
        for index in (0, 1, 2, 5, 6):
            made.put(make_tick(index, action=np.zeros(4)), make_obs(CONTRACT, index))
    assert [episode.missing for episode in read_episodes(tmp_path)] == [2]


def test_a_verdict_after_the_end_counts_and_the_first_one_stays(tmp_path: Path):
    from robot_bridge.reasons import Phase

    with recorder(tmp_path) as made:
        made.put(make_tick(0, action=np.zeros(4)), make_obs(CONTRACT, 0))
        made.put(make_tick(1, phase=Phase.ARMED))
        made.event("success")
        made.event("failure")
        made.put(make_tick(2, action=np.zeros(4)), make_obs(CONTRACT, 0))
        made.event("failure")
        made.put(make_tick(3, action=np.zeros(4)), make_obs(CONTRACT, 0))
        made.event("begin")
        made.put(make_tick(4, action=np.zeros(4)), make_obs(CONTRACT, 0))
    found = read_episodes(tmp_path)
    assert [(e.ending, len(e.steps)) for e in found] == [
        ("success", 1), ("failure", 1), ("cut", 1),
    ]  # fmt: skip


def test_every_ending_is_read_back_as_it_was_recorded(tmp_path: Path):
    record(tmp_path, CONTRACT, dict(enumerate(ENDINGS, start=2)))
    assert tuple(episode.ending for episode in read_episodes(tmp_path)) == ENDINGS


def test_a_verdict_after_a_time_out_counts(tmp_path: Path):
    with recorder(tmp_path) as made:
        made.put(make_tick(0, action=np.zeros(4)), make_obs(CONTRACT, 0))
        for event in ("timeout", "success", "fault"):
            made.event(event)
    assert [episode.ending for episode in read_episodes(tmp_path)] == ["success"]
