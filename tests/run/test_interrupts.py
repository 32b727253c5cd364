"""One signal ends train.py cleanly from any phase of its life: nothing half-made stays.

    python tests/run/test_interrupts.py 30

sends signals at that many random moments of whole runs and prints what became of each.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starter import Starter

from mjx_serl.run.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("--preset", "laptop", "--num-envs", "4", "--total-env-steps", "400", "--demos.count", "0"),
    *("--agent.hidden", "8"),
    *("--loop.batch-size", "8", "--loop.warmup-steps", "16", "--loop.buffer-size", "512"),
    *("--loop.updates-per-step", "1", "--loop.steps-per-epoch", "5", "--eval.every-epochs", "4"),
    *("--eval.check-episodes", "2", "--eval.episodes", "2", "--eval.stop-at", "2"),
    *("--run.no-tensorboard", "--run.name", "run"),
]
# From a signal to the end: an epoch or a save may be under way.
PATIENCE = 30.0


def options(runs: Path) -> list[str]:
    """Of a run from its command line to its bundle, in a few seconds."""
    return [*TINY, "--run.folder", str(runs)]


def start(runs: Path) -> subprocess.Popen[str]:
    """train.py, a process from its first import on."""
    command = [sys.executable, str(ROOT / "train.py"), *options(runs)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=runs)


def end(process: subprocess.Popen[str], runs: Path, number: int) -> str:
    """Send a signal and check what is left; returns what became of the run."""
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return became(process.returncode, out + err, runs, number)


def became(status: int, said: str, runs: Path, number: int) -> str:
    """What became of a run that a signal ended with an exit status."""
    assert "Traceback" not in said, said
    folder = RunFolder(runs / "run")
    # The second where Python has not yet begun or is already done with the script.
    if status in (128 + number, -number):
        trained = folder.path.exists()
        # It ended at once: before anything was trained, or after all of it was saved.
        assert not trained or (folder.path / "summary.json").is_file()
        return "ended after its summary" if trained else "left nothing"
    assert status == 0, (status, said)
    if "Stopped and saved" in said:
        assert any(folder.checkpoints.iterdir())
        return "stopped and saved"
    assert folder.read_summary() is not None
    return "was done"


@pytest.mark.slow
def test_a_signal_ends_its_imports(tmp_path: Path) -> None:
    process = start(tmp_path)
    time.sleep(1.0)
    assert process.poll() is None, process.communicate()
    assert end(process, tmp_path, signal.SIGINT) == "left nothing"


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts the script where its imports are done."""
    with Starter(tmp_path_factory.mktemp("starts")) as starter:
        yield starter


def is_building(run: Path) -> bool:
    """Whether it has a folder, and compiles what it will train with."""
    return (run / "config.json").exists()


def is_training(run: Path) -> bool:
    """Whether it is in its loop."""
    return bool(RunFolder(run).read_metrics())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reached", "outcome"), [(is_building, "left nothing"), (is_training, "stopped and saved")]
)
def test_a_signal_ends_each_phase(
    tmp_path: Path, starter: Starter, reached: Callable[[Path], bool], outcome: str
) -> None:
    starter.train_py(*options(tmp_path))
    starter.wait_for(lambda: reached(tmp_path / "run"))
    status = starter.end(signal.SIGINT)
    assert became(status, starter.said(), tmp_path, signal.SIGINT) == outcome


def main(count: int) -> None:
    """Try random moments; the second of two undisturbed runs says how long a life is."""
    life = 0.0
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            start(Path(folder)).communicate()
            life = time.monotonic() - began
    rng = random.Random(0)
    for _ in range(count):
        moment = rng.uniform(0.05, life)
        with tempfile.TemporaryDirectory() as folder:
            process = start(Path(folder))
            time.sleep(moment)
            sent = time.monotonic()
            became = end(process, Path(folder), rng.choice((signal.SIGINT, signal.SIGTERM)))
            took = time.monotonic() - sent
        sys.stdout.write(f"{moment:6.2f} s of {life:.2f} s: {became}, {took:.2f} s later\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
