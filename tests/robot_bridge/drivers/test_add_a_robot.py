"""docs/add_a_robot.md as it stands: its driver, its fake and its test, in a folder of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "add_a_robot.md"
FILES = ("my_arm.py", "my_sdk.py", "test_my_arm.py")


@pytest.mark.slow
def test_the_template_passes_the_conformance_suite(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, block in zip(FILES, blocks, strict=True):
        (tmp_path / name).write_text(block)
    path = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "tests" / "robot_bridge")))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_arm.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"1[5-9] passed", ran.stdout), ran.stdout
