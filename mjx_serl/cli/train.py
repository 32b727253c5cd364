"""Train a policy: `python train.py --help` lists every option, `make train` sets up and trains."""

import sys

from scenes.contract.command_line import guarded


def run() -> int:
    """Parse, prepare the platform before JAX starts, train."""
    from mjx_serl.platform import (
        cpu_devices,
        needs_mjx,
        parse_start,
        prepare_platform,
        program_cache,
    )

    argv = sys.argv[1:]
    start, _ = parse_start(argv)
    prepare_platform(
        mjx_on_cpu=needs_mjx(physics=start.physics, run=start.resume),
        cache_dir=program_cache(),
        cpu_devices=cpu_devices(devices=start.devices, run=start.resume),
    )

    def train() -> int:
        # JAX must start after the platform is prepared, and with it what trains one run together.
        from mjx_serl.run.peers import join_peers

        join_peers()
        from mjx_serl.seeds import train_command

        return train_command(argv)

    return guarded(train)
