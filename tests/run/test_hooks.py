"""Hooks: what is written, and that a failing one never ends a run."""

import sys

import pytest

from mjx_serl.run import hooks
from mjx_serl.run.curve import headline
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import (
    CurveHook,
    EpochRecord,
    GuardedHooks,
    JsonlHook,
    TensorBoardHook,
)
from mjx_serl.run.summary import wilson_interval


def make_epoch(epoch, **metrics):
    return EpochRecord(
        epoch=epoch,
        env_steps=epoch * 100,
        grad_steps=epoch * 50,
        elapsed_s=epoch * 1.5,
        metrics={hooks.TRAIN_SUCCESS: epoch / 10} | metrics,
    )


@pytest.fixture
def drive(make_info, make_eval, make_summary):
    """Run a short run past a hook."""

    def run(hook, folder, *, start_epoch=0, epochs=(1, 2, 3)):
        steps = 100 * start_epoch
        hook.on_start(make_info(folder, start_epoch=start_epoch, start_env_steps=steps))
        for epoch in epochs:
            hook.on_epoch(make_epoch(epoch))
            hook.on_eval(make_eval(epoch))
        if epochs:
            hook.on_eval(make_eval(epochs[-1], successes=8, final=True))
        hook.on_end(make_summary())

    return run


def test_jsonl(tmp_path, drive, make_summary):
    folder = RunFolder(tmp_path)
    drive(JsonlHook(folder), tmp_path)
    rows = folder.read_metrics()
    assert [(row["kind"], row["epoch"]) for row in rows[:3]] == [
        ("epoch", 1),
        ("eval", 1),
        ("epoch", 2),
    ]
    assert rows[0]["env_steps"] == 100 and rows[0]["train/success_rate"] == 0.1
    assert rows[1]["success_rate"] == 0.9
    assert rows[1]["success_ci95"] == pytest.approx(wilson_interval(9, 10))
    assert [row["kind"] for row in rows[3:]] == ["eval", "epoch", "eval", "final"]
    assert rows[-1]["success_rate"] == 0.8
    assert folder.read_summary() == make_summary()


def test_a_stopped_run_has_no_summary(tmp_path, make_info):
    folder = RunFolder(tmp_path)
    every = [JsonlHook(folder), TensorBoardHook(folder), CurveHook(folder)]
    guarded = GuardedHooks(every, warn=pytest.fail)
    guarded.on_start(make_info(tmp_path))
    guarded.on_epoch(make_epoch(1))
    guarded.on_end(None)
    assert folder.read_summary() is None and (tmp_path / "curve.png").exists()


def read_scalars(path):
    """(tag, step) of every scalar in the event files under `path`, in file order."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(path.glob("events*")):
        data, at = file.read_bytes(), 0
        while at < len(data):  # TFRecord: length u64, crc u32, payload, crc u32
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, event.step) for value in event.summary.value]
            at += 16 + length
    return found


def test_tensorboard(tmp_path, drive):
    pytest.importorskip("tensorboardX")
    drive(TensorBoardHook(RunFolder(tmp_path)), tmp_path)
    scalars = read_scalars(tmp_path / "tensorboard")
    assert ("train/success_rate", 300) in scalars and ("eval/success_low", 200) in scalars
    assert scalars.count(("eval/success_rate", 300)) == 1
    assert scalars.count(("final/success_rate", 300)) == 1


def test_missing_packages_are_said_clearly(tmp_path, monkeypatch, make_summary):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match=r"Hook needs tensorboardX.*: pip install t"):
        TensorBoardHook(RunFolder(tmp_path))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    folder = RunFolder(tmp_path)
    folder.append_metrics(hooks.epoch_row(make_epoch(1)))
    with pytest.raises(
        ModuleNotFoundError, match=r"learning curve needs matplotlib.*: pip install m"
    ):
        CurveHook(folder).on_end(make_summary())


@pytest.mark.parametrize("epochs", [(), (1,), (1, 2, 3)])
def test_curve_is_drawn_from_what_is_on_disk(tmp_path, epochs, drive):
    pytest.importorskip("matplotlib")
    folder = RunFolder(tmp_path)
    both = GuardedHooks([JsonlHook(folder), CurveHook(folder)], warn=pytest.fail)
    drive(both, tmp_path, epochs=epochs)
    image = tmp_path / "curve.png"
    assert image.exists() == bool(epochs)
    if epochs:
        assert image.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and image.stat().st_size > 10_000


def test_the_headline_is_the_final_evaluation(make_eval):
    check, final = make_eval(3), make_eval(3, successes=8, final=True)
    rows = [hooks.epoch_row(make_epoch(3)), hooks.eval_row(check)]
    assert headline(rows[:1], "t") == "t"
    assert "90% of 10 episodes in the last check  (95%" in headline(rows, "t")
    assert "80% of 10 episodes  (95%" in headline([*rows, hooks.eval_row(final)], "t")


def test_curve_takes_metrics_that_are_not_known_yet(tmp_path, make_summary):
    pytest.importorskip("matplotlib")
    folder = RunFolder(tmp_path)
    for epoch in (1, 2):
        folder.append_metrics(hooks.epoch_row(make_epoch(epoch, **{hooks.TRAIN_SUCCESS: None})))
    folder.append_metrics(hooks.epoch_row(make_epoch(3)))
    CurveHook(folder).on_end(make_summary())
    assert (tmp_path / "curve.png").exists()


class FullDisk:
    def _fail(self, argument):
        raise OSError(28, "No space left on device")

    on_start = on_epoch = on_eval = on_end = _fail


class Counter:
    def __init__(self):
        self.events = []

    def on_start(self, info):
        self.events.append("start")

    def on_epoch(self, record):
        self.events.append("epoch")

    def on_eval(self, record):
        self.events.append("eval")

    def on_end(self, summary):
        self.events.append("end")


def test_a_failing_hook_warns_once_and_the_others_go_on(tmp_path, drive):
    warnings, counter = [], Counter()
    drive(GuardedHooks([FullDisk(), counter], warn=warnings.append), tmp_path, epochs=(1, 2))
    assert counter.events == ["start", "epoch", "eval", "epoch", "eval", "eval", "end"]
    assert len(warnings) == 1
    assert "FullDisk failed" in warnings[0] and "No space left" in warnings[0]


def test_ctrl_c_is_no_failure_of_a_hook(tmp_path, drive):
    class Interrupted(Counter):
        def on_epoch(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(GuardedHooks([Interrupted()]), tmp_path)
