"""Train a policy: `python train.py --help` lists every option, `make train` sets up and trains."""

import sys
from pathlib import Path

from mjx_serl.platform import prepare_platform, steps_with_mjx


def main() -> int:
    """Parse, prepare the platform before JAX starts, train."""
    argv = sys.argv[1:]
    prepare_platform(
        mjx_on_cpu=steps_with_mjx(argv),
        cache_dir=Path(__file__).resolve().parent / ".cache" / "jax",
    )
    # JAX must start after the platform is prepared.
    from mjx_serl.commands import guarded, parse_train, train

    return guarded(lambda: train(*parse_train(argv)))


if __name__ == "__main__":
    sys.exit(main())
