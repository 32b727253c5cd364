"""Record a motion that shows what an arm is like: `mjx-serl excite --robot piper --address can0`.

`python -m mjx_serl.sysid` makes a fit of such recordings; docs/sysid.md leads through both.
"""

import dataclasses

import tyro

from robot_bridge.clock import ManualClock
from robot_bridge.deploy.commands import Interruptible, guarded, terminal
from robot_bridge.deploy.excite import ExciteConfig, excitation_contract, excite
from robot_bridge.deploy.ledger import state_folder
from robot_bridge.deploy.rig import Rig, RigConfig, Senses
from robot_bridge.deploy.rigs import build_rig, describe_robots, rig_makers
from robot_bridge.drivers.simulated_joints import SimJointDriver
from scenes.contract.command_line import how_to_start
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.plugins import load_plugins
from scenes.contract.ranges import require_number
from scenes.robots import ROBOTS, robot_named

DEFAULTS = ExciteConfig()
SIM = "sim"  # the robot that is simulated


def main(
    robot: str,
    model: str | None = None,
    address: str = "",
    realtime_kernel: bool = True,
    motion: tyro.conf.OmitArgPrefixes[ExciteConfig] = DEFAULTS,
    sim_delay: float = 0.03,
    plugin: tuple[str, ...] = (),
) -> int:
    """Swing every joint of an arm about its home, under the bridge's governor, and record it.

    Args:
        robot: which arm, of those listed above; sim moves a simulated one.
        model: what it is in the simulator, for example panda, fr3 or piper; as `robot` unless
            given.
        address: of the arm: the control box's host, the CAN channel or the server's URL.
        realtime_kernel: refuse to drive a Franka from a kernel that is not PREEMPT_RT.
        motion: how it is moved.
        sim_delay: from a command to the drives of a simulated arm [s].
        plugin: modules to import first, which register robots of yours.
    """
    load_plugins(plugin)
    if motion.audit is None:
        motion = dataclasses.replace(motion, audit=state_folder() / "audit.jsonl")
    talk = terminal()
    config = RigConfig(robot=robot, address=address, realtime_kernel=realtime_kernel)
    rig = _rig(config, model, sim_delay)
    with Interruptible(talk.say):
        path = excite(rig, motion, talk)
    talk.say(f"{path}: {motion.seconds:g} s")
    talk.say(f"When there are two or more: {how_to_start('sysid')} {motion.record} --robot ROBOT")
    return 0


def _rig(config: RigConfig, model: str | None, sim_delay: float) -> Rig:
    """What is connected; InputError where nobody knows what it is in the simulator."""
    if config.robot == SIM:
        return _simulated(model or "panda", delay=sim_delay)
    makers, known = rig_makers(), list(ROBOTS)
    if config.robot not in makers:
        raise UnknownNameError(unknown_name("robot", config.robot, [*makers, SIM]))
    name = model or config.robot
    if name not in known:
        raise InputError(f"Say what '{name}' is in the simulator: --model {'|'.join(known)}")
    return build_rig(config, excitation_contract(robot_named(name)), makers)


def _simulated(model: str, *, delay: float) -> Rig:
    """A simulated arm as it is in the tasks, in lock-step, but for the delay."""
    from mjx_serl.sysid.driven_arm import DrivenArm

    require_number("sim-delay", delay, least=0, most=0.2)
    clock = ManualClock()
    arm = DrivenArm(robot_named(model), delay=delay)
    return Rig(driver=SimJointDriver(arm, clock), clock=clock, senses=Senses)


def run() -> int:
    """Read the command line; returns the exit status."""
    about = f"{__doc__}\nRobots:\n{describe_robots()}"
    return guarded(lambda: tyro.cli(main, description=about))
