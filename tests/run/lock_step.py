"""A policy through the bridge and through the environment, step by step: `lock_step.py TASK`.

Prints one JSON line: steps, the largest difference of any observation and of any action, and how
far the hand moved [m]. A process of its own, because it is about rounding: XLA must compile it as
it compiles training.
"""

import json
import sys
from pathlib import Path

from mjx_serl.platform import prepare_platform

prepare_platform(cache_dir=Path(__file__).parents[2] / ".cache" / "jax")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from mjx_serl import tasks as tasks  # noqa: E402  (files the tasks in the registry)
from mjx_serl.envs.env import make_env  # noqa: E402
from mjx_serl.envs.observation import Observer  # noqa: E402
from mjx_serl.run.simulated_arm import SimulatedArm  # noqa: E402
from robot_bridge.clock import ManualClock  # noqa: E402
from robot_bridge.control.arbiter import Arbiter  # noqa: E402
from robot_bridge.control.control_loop import ControlLoop, Parts  # noqa: E402
from robot_bridge.control.session import LockStep, Loop  # noqa: E402
from robot_bridge.drivers.simulated import SimDriver, SimObjects, SteppedGovernor  # noqa: E402
from robot_bridge.policy.observation import ObservationBuilder  # noqa: E402
from robot_bridge.policy.policy_loop import PolicyLoop  # noqa: E402
from robot_bridge.safety.command_check import ActionGate  # noqa: E402
from robot_bridge.safety.limits import default_limits  # noqa: E402
from robot_bridge.safety.supervisor import Supervisor  # noqa: E402

STEPS = 25
# What the networks of a policy do: a smooth function of all that is observed.
GAIN = np.random.default_rng(3).normal(size=(24, 4)).astype(np.float32)


def act(obs: dict) -> jax.Array:
    """Choose an action that depends on everything."""
    row = jnp.concatenate([jnp.asarray(obs[name]) for name in sorted(obs)])
    return jnp.tanh(3.0 * row @ GAIN)


class Recorded:
    """The same function as the bridge's policy; keeps what it saw and chose."""

    def __init__(self) -> None:
        self.rows: list[tuple[dict, np.ndarray]] = []
        self._act = jax.jit(act)

    def reset(self) -> None:
        self.rows.clear()

    def act(self, obs: dict) -> np.ndarray:
        actions = np.asarray(self._act(obs))[None]
        self.rows.append((dict(obs), actions))
        return actions


def through_the_bridge(observer: Observer, world: SimulatedArm) -> Recorded:
    """Play one episode's first steps under the bridge, ungoverned."""
    contract, clock = observer.contract, ManualClock()
    driver = SimDriver(world, clock)
    limits = default_limits(contract.robot)
    parts = Parts(
        contract=contract,
        limits=limits,
        driver=driver,
        governor=SteppedGovernor(driver.info),
        gate=ActionGate(contract, limits),
        supervisor=Supervisor(driver, clock, phrase="sim"),
        arbiter=Arbiter(),
        clock=clock,
    )
    control, policy = ControlLoop(parts), Recorded()
    builder = ObservationBuilder(contract, objects=SimObjects(world, clock))
    period = 1.0 / contract.action.rate
    loop = Loop(PolicyLoop(control, builder, policy, period=period).tick, period, "policy")
    driver.connect()
    driver.start(1)
    parts.supervisor.arm(parts.supervisor.confirm("arm", by="test", typed="sim"))
    control.begin()
    LockStep(control, loop, clock, period=period).run(lambda: False, timeout=STEPS * period)
    return policy


def main() -> None:
    """Compare the two."""
    observer = Observer(make_env(sys.argv[1], physics="native"))
    world = SimulatedArm(observer, seed=5, episodes=2, governed=False)
    rows = through_the_bridge(observer, world).rows
    step, choose = jax.jit(observer.env.step), jax.jit(act)
    state = jax.jit(observer.env.reset)(world._starts[1])
    worst = {"obs": 0.0, "action": 0.0}
    for seen, actions in rows:
        expected = choose(state.obs)
        for name, value in seen.items():
            gap = float(np.abs(value - np.asarray(state.obs[name])).max())
            worst["obs"] = max(worst["obs"], gap)
        worst["action"] = max(worst["action"], float(np.abs(actions[0] - expected).max()))
        state = step(state, expected)
    moved = float(np.linalg.norm(rows[-1][0]["ee_position"] - rows[0][0]["ee_position"]))
    sys.stdout.write(json.dumps({"steps": len(rows), "moved": moved, **worst}) + "\n")


if __name__ == "__main__":
    main()
