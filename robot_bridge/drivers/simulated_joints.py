"""A simulated arm that takes joint positions, as a Piper does: for measuring what arms do."""

from typing import Protocol

from robot_bridge.driver import ArmInfo, Target, Vector
from robot_bridge.drivers.world_arm import ArmWorld, WorldArm


class JointWorld(ArmWorld, Protocol):
    """A simulated arm by its joints; see `mjx_serl.sysid.driven_arm.DrivenArm`."""

    def command(self, q: Vector) -> None:
        """Set the joint positions that the drives go to [rad]."""
        ...

    def grip(self, width: float) -> None:
        """Set the gripper's opening [m]."""
        ...


class SimJointDriver(WorldArm[JointWorld]):
    """A world of joints as an arm that takes joint positions."""

    @property
    def info(self) -> ArmInfo:
        """A simulated arm that takes joint positions."""
        return ArmInfo(
            robot=self.world.name, serial="sim", firmware="sim", takes="joints", simulated=True
        )

    def servo(self, target: Target) -> None:
        """Go on towards the target's joint positions."""
        self._link.admit(target)
        self.world.command(target.q)

    def gripper(self, width: float, force: float) -> None:
        """Ask for an opening [m]; the world has its own force."""
        del force
        self.world.grip(width)

    def hold(self) -> None:
        """Stay."""
        self.world.command(self.world.joints()[0])
