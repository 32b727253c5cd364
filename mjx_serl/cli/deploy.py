"""Run a policy on an arm: `python deploy.py RUN --robot sim`, later --robot franka --address HOST.

docs/deploy.md leads from a bundle to the first motion, step by step.
"""

import dataclasses
from pathlib import Path

import tyro

from robot_bridge.deploy.commands import deploy, guarded
from robot_bridge.deploy.deployment import DeployConfig, Rig
from robot_bridge.deploy.rigs import RigConfig, describe_robots, rig_makers
from robot_bridge.policy.bundle import find_bundle, load_bundle
from scenes.contract.errors import InputError
from scenes.contract.plugins import load_plugins
from scenes.contract.policy_contract import Contract

EXPERT = "expert"  # the task's own, as the operator of the simulated arm
NO_RIG, DEFAULTS = RigConfig(), DeployConfig()


def main(
    run: tyro.conf.Positional[Path],
    /,
    rig: tyro.conf.OmitArgPrefixes[RigConfig] = NO_RIG,
    session: tyro.conf.OmitArgPrefixes[DeployConfig] = DEFAULTS,
    seed: int = 0,
    plugin: tuple[str, ...] = (),
) -> int:
    """Load a bundle, check it against the arm, and run its policy under the bridge's limits.

    Args:
        run: a run folder or a bundle.
        rig: what is connected.
        session: how it is run.
        seed: of the simulated robot's starts, as in evaluate.py.
        plugin: modules to import first, which register robots of yours.
    """

    def sim(config: RigConfig, contract: Contract) -> Rig:
        # The only robot that needs JAX.
        from mjx_serl.platform import prepare_platform, program_cache

        prepare_platform(cache_dir=program_cache())
        from mjx_serl.learning.simulated_person import SimulatedPerson
        from mjx_serl.run.simulated_arm import build_world
        from robot_bridge.deploy.rigs import sim_rig

        world = build_world(
            bundle.manifest.task,
            contract,
            seed=seed,
            episodes=session.episodes,
            tokenizer_model=session.tokenizer_model,
        )
        if config.operator not in ("none", EXPERT):
            raise InputError(
                f"--operator {config.operator} with the simulated arm, which goes faster than a "
                f"person; allowed: none, {EXPERT}. By hand: play.py --pilot, train.py --pilot"
            )
        if config.operator == "none":
            return sim_rig(world, contract)
        person = SimulatedPerson(world, seed=seed)
        return dataclasses.replace(sim_rig(world, contract, person), sinks=(person.see,))

    load_plugins(plugin)
    bundle = load_bundle(find_bundle(run))
    return deploy(bundle, rig, session, rig_makers() | {"sim": sim})


def run() -> int:
    """Read the command line and deploy; returns the exit status."""
    about = f"{__doc__}\nRobots:\n{describe_robots()}"
    return guarded(lambda: tyro.cli(main, description=about))
