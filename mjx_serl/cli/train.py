"""Train a policy: `python train.py --help` lists every option, `make train` sets up and trains."""

import sys


def run() -> int:
    """Parse, prepare the platform before JAX starts, train."""
    from mjx_serl.platform import needs_mjx, parse_start, prepare_platform, program_cache

    argv = sys.argv[1:]
    start, _ = parse_start(argv)
    prepare_platform(
        mjx_on_cpu=needs_mjx(physics=start.physics, run=start.resume), cache_dir=program_cache()
    )
    # JAX must start after the platform is prepared.
    from mjx_serl.commands import guarded, parse_train, train

    return guarded(lambda: train(*parse_train(argv)))
