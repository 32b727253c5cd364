"""Turn pyproject.toml into the hashed locks under requirements/; they name no package host.

One lock serves every interpreter from 3.11 up (environment markers choose), and all of them
agree on the versions they share, so that `dev` can be laid over `cuda`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import setup_env

FOLDER = setup_env.ROOT / "requirements"
COMPILE = ["pip", "compile", "-q", "--universal", "--python-version", "3.11", "--generate-hashes"]
COMPILE += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]


def lock(target: str, sources: list[str]) -> None:
    """Write one lock; raises CalledProcessError when the requirements cannot be met together."""
    uv = setup_env.find_uv(None) or setup_env.install_uv(sys.executable)
    if uv is None:
        raise SystemExit("lock: uv is needed and could not be installed")
    subprocess.run(
        [uv, *COMPILE, *sources, "-o", str(FOLDER / target)], cwd=setup_env.ROOT, check=True
    )
    text = (FOLDER / target).read_text()
    if "://" in text:
        raise SystemExit(f"lock: requirements/{target} names a host")
    print(f"lock: {target}: {text.count('==')} pins")


def main() -> None:
    """Write all locks, the CPU core first because the others are held to its versions."""
    pins = ["-c", "requirements/pins.in"]
    core = ["pyproject.toml", "requirements/build.in", *pins]
    lock("uv.txt", ["requirements/uv.in"])
    lock("cpu.txt", core)
    same = ["-c", str(Path("requirements") / "cpu.txt")]
    lock("dev.txt", [*core, *same, "--extra", "dev"])
    lock("cuda13.txt", [*core, *same, "--extra", "cuda", "--extra", "warp"])
    lock("cuda12.txt", [*core, *same, "--extra", "cuda12", "--extra", "warp"])


if __name__ == "__main__":
    main()
