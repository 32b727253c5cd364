"""A failure of a test that keeps time counts, unless the machine stalled meanwhile."""

import subprocess
import sys
import time
from pathlib import Path

import keeping_time

CONFTEST = """
import keeping_time
stalls = iter({stalls})

class Told:
    def __enter__(self):
        self.longest = next(stalls)
        return self
    def __exit__(self, *_):
        pass

keeping_time.Stalls = Told
def pytest_runtest_protocol(item, nextitem):
    return keeping_time.play(item, nextitem)
"""
TESTS = """
import pytest
tries = []

@pytest.fixture
def fresh():
    return []

def test_it(fresh):
    fresh.append(1)
    tries.append(1)
    assert len(fresh) == 1
    assert len(tries) > {failures}
"""


def outcome(folder: Path, *, stalls: list[float], failures: int) -> str:
    """What pytest says of a test that fails so many times."""
    (folder / "conftest.py").write_text(CONFTEST.format(stalls=stalls))
    (folder / "test_it.py").write_text(TESTS.format(failures=failures))
    path = str(Path(keeping_time.__file__).parent)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    ran = subprocess.run(
        [*command, "--rootdir", str(folder), str(folder)],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout


def test_it_is_played_again_while_the_machine_stalls_and_only_then(tmp_path):
    assert "1 passed" in outcome(tmp_path, stalls=[0.1, 0.1, 0.1], failures=2)
    said = outcome(tmp_path, stalls=[0.1, 0.001], failures=2)
    assert "1 failed" in said and "no turn came for 100 ms" in said
    assert "1 failed" in outcome(tmp_path, stalls=[0.1] * 9, failures=9)


def test_a_stall_is_seen():
    with keeping_time.Stalls() as stalls:
        time.sleep(0.01)
        list(range(20_000_000))  # keeps the interpreter to itself
        time.sleep(0.01)
    assert stalls.longest > 0.05
