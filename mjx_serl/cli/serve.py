"""Serve a run's policy to openpi clients: `mjx-serl serve RUN --port 8000`, on any device.

What several clients ask at the same time is one batch. `python -m robot_bridge serve` serves a
bundle where there is no JAX, one client after the other.
"""

from pathlib import Path

import tyro

from mjx_serl.platform import needs_mjx, prepare_platform, program_cache
from robot_bridge.deploy.commands import guarded
from robot_bridge.deploy.serve import OPTIONS, ServeOptions, serve_policy
from scenes.contract.ranges import require_number


def main(
    run: tyro.conf.Positional[Path],
    /,
    server: tyro.conf.OmitArgPrefixes[ServeOptions] = OPTIONS,
    max_batch: int = 64,
) -> int:
    """Serve the latest good checkpoint of a run until interrupted.

    Args:
        run: the run folder.
        server: where, and for whom.
        max_batch: observations that are answered together.
    """
    require_number("max-batch", max_batch, least=1, most=1024, whole=True)
    prepare_platform(mjx_on_cpu=needs_mjx(run=run), cache_dir=program_cache())
    # JAX must start after the platform is prepared.
    import dataclasses

    from mjx_serl.export.served import ServedPolicy
    from mjx_serl.run.evaluation import load_policy

    loaded, params = load_policy(run)
    contract = loaded.observer.contract
    policy = ServedPolicy(loaded.trainer, loaded.observer, params, most=max_batch)
    # The run knows where its tokenizer's file was.
    words = server.tokenizer_model or loaded.cfg.tokenizer.model
    server = dataclasses.replace(server, tokenizer_model=words)
    config = dataclasses.replace(server.config(contract, policy.horizon), max_batch=max_batch)
    print(f"compiling batches of {', '.join(map(str, policy.sizes))}", flush=True)
    policy.warm_up()
    return serve_policy(policy, contract, config, loaded.cfg.task)


def run() -> int:
    """Read the command line and serve; returns the exit status."""
    return guarded(lambda: tyro.cli(main, description=__doc__))
