"""Workers take turns; one that fails or hangs costs itself, with a reason."""

import pytest

from benchmarks.compare import Group
from benchmarks.process import Deadline, WorkerError, WorkerProcess
from benchmarks.worker import rate

ECHO = "tests.benchmarks.echo_worker"


def test_workers_are_measured_in_turns_after_a_warm_up():
    with Group() as group:
        group.start("a", ECHO, {"factor": 1.0})
        group.start("b", ECHO, {"factor": 10.0})
        samples = group.measure(3)
        assert samples.rates == {"a": [2.0, 3.0, 4.0], "b": [20.0, 30.0, 40.0]}
        assert samples.median("b") == 30.0
        facts = group.facts("a")
    assert facts["fact"] == 1
    assert facts["factor"] == 1.0


def test_a_failing_worker_is_left_out_with_its_exception():
    with Group() as group:
        group.start("good", ECHO, {})
        group.start("bad start", ECHO, {"fail": "start"})
        group.start("bad later", ECHO, {"fail": "measure"})
        samples = group.measure(2)
    assert list(samples.rates) == ["good"]
    assert "RuntimeError: no such engine" in group.failures["bad start"]
    assert "ValueError: broke down" in group.failures["bad later"]


def test_a_hanging_worker_is_ended_in_time():
    worker = WorkerProcess(ECHO, {"hang": True})
    worker.wait_ready(30.0)
    with pytest.raises(WorkerError, match="over 0 s"):
        worker.measure(0.3)
    worker.close()


def test_a_spent_deadline_leaves_nothing():
    assert Deadline(0.0).left() == 0.0
    assert 0.0 < Deadline(5.0).left(1.0) <= 1.0


def test_rate_divides_all_work_by_the_time_it_took():
    calls = []
    measured = rate(lambda: calls.append(0), 7.0, 0.02)
    assert len(calls) > 1
    assert 0.0 < measured <= 7.0 * len(calls) / 0.02
