"""Is the arm's state fit to be controlled by, and does the arm do what it is told?"""

import numpy as np

from robot_bridge.driver import ArmState, Mode, Target, Vector
from robot_bridge.reasons import Reason
from robot_bridge.safety.kinematics import Chain, rotation_vector
from robot_bridge.safety.limits import Limits
from scenes.contract.robot import RobotSpec
from scenes.contract.rotations import quat_to_matrix

# What the arm may say of itself while it is ours.
OURS = (Mode.IDLE, Mode.MOVING)
# This near to the end of its leash a target is one that the arm should be moving to.
_ASKED = 0.9
# A joint that has turned by less is one that stands [rad].
_MOVED = 0.01
# Longest time between two ticks that counts as one in which the arm could have moved [s].
_TICK = 0.05


# A reading may be this much newer than the tick that judges it [s]; its clock is ours.
_AHEAD = 0.02


class StateWatch:
    """Compares each reading with the limits, the robot's kinematics and the reading before it."""

    def __init__(self, limits: Limits, robot: RobotSpec) -> None:
        self._limits, self._robot, self._chain = limits, robot, Chain(robot)
        self._seq = -1
        self._changed = -np.inf

    def check(self, state: ArmState, now: float) -> tuple[Reason, Reason]:
        """Return the reasons to hold and the reasons to fault.

        Old readings and a poor link hold; what the arm complains about, too much torque, numbers
        that are none, and a pose that does not belong to the joints fault.
        """
        hold, fault = Reason.NONE, Reason.NONE
        if state.seq != self._seq:
            self._seq, self._changed = state.seq, now
        # A frozen source repeats its reading, a broken one stamps it with an old time.
        age = max(now - self._changed, now - state.t)
        poor = state.link_quality < self._limits.link_quality_min
        # One from the future is as old as nobody knows.
        if age > self._limits.state_max_age or state.t - now > _AHEAD or poor:
            hold |= Reason.STATE_STALE
        if age > self._limits.command_fault_age:
            fault |= Reason.STATE_STALE
        if state.faults or state.mode not in OURS:
            fault |= Reason.ROBOT_FAULT
        if not _finite(state):
            fault |= Reason.NOT_FINITE
            return hold, fault
        if self._torque_exceeded(state):
            fault |= Reason.TORQUE
        if self.mismatch(state) is not None:
            fault |= Reason.KINEMATICS_MISMATCH
        return hold, fault

    def explain(self, fault: Reason, state: ArmState) -> str:
        """What the arm says of reasons to fault, in its own words where it has some."""
        said: list[str] = []
        if fault & Reason.ROBOT_FAULT:
            said.append(f"the arm is {state.mode.value}")
            said += state.faults
        if fault & Reason.TORQUE and state.tau is not None and self._limits.torque_max is not None:
            joint = int(np.argmax(np.abs(state.tau) / np.asarray(self._limits.torque_max)))
            name, most = self._robot.joint_names[joint], self._limits.torque_max[joint]
            said.append(f"{name} has {state.tau[joint]:.1f} N m, allowed {most:g}")
        if fault & Reason.KINEMATICS_MISMATCH:
            said.append(self.mismatch(state) or "")
        return "; ".join(said)

    def mismatch(self, state: ArmState) -> str | None:
        """How the arm's pose differs from that of its joints, None where it does not.

        The governor plans with the joints and the arm goes to poses: if they do not belong
        together, every limit of place is off by as much.
        """
        pose = self._chain.poses(state.q[None])[0]
        apart = float(np.linalg.norm(state.position - pose[:, 3]))
        turn = rotation_vector(quat_to_matrix(state.quat.tolist()) @ pose[:, :3].T)
        turned, limits = float(np.linalg.norm(turn)), self._limits
        # Written so that a NaN is a mismatch.
        if apart <= limits.kinematics_position and turned <= limits.kinematics_rotation:
            return None
        return (
            f"The arm says that its tool is {apart:.3f} m and {turned:.2f} rad from where its "
            f"joints put a {self._robot.name}'s (allowed {limits.kinematics_position:g} m and "
            f"{limits.kinematics_rotation:g} rad); is it the right robot, and is the hand set as "
            "its end effector?"
        )

    def _torque_exceeded(self, state: ArmState) -> bool:
        most = self._limits.torque_max
        return state.tau is not None and most is not None and bool((abs(state.tau) > most).any())


class FollowWatch:
    """Notices an arm that stands although its target is a leash away, and does not say why.

    A reflex that a server between us and the arm keeps to itself looks like this. An arm that is
    slow moves, and one that is pressed against something is not asked to go a leash beyond it for
    long.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.reset()

    def reset(self) -> None:
        """Begin anew, for example where the arm is taken over."""
        self._from: Vector | None = None
        self._stood, self._last = 0.0, -np.inf

    @property
    def stood(self) -> float:
        """For how long it has stood so [s]; 0 where it moves, or is asked for nothing."""
        return 0.0 if self._from is None else self._stood

    def check(self, target: Target, state: ArmState, now: float) -> Reason:
        """NOT_FOLLOWING where the arm has stood for too long; ask at each tick that moves it."""
        passed, self._last = min(now - self._last, _TICK), now
        if not self._asked(target, state):
            self._from = None
        elif self._from is None or np.abs(state.q - self._from).max() > _MOVED:
            self._from, self._stood = state.q.copy(), 0.0
        else:
            # Ticks in which nothing was asked of the arm do not count.
            self._stood += passed
        late = self._from is not None and self._stood > self._limits.following_max_age
        return Reason.NOT_FOLLOWING if late else Reason.NONE

    def _asked(self, target: Target, state: ArmState) -> bool:
        limits = self._limits
        apart = float(np.linalg.norm(target.position - state.position))
        turn = 2.0 * np.arccos(min(1.0, abs(float(target.quat @ state.quat))))
        shares = (
            apart / limits.leash_position,
            turn / limits.leash_rotation,
            float(np.abs(target.q - state.q).max()) / limits.leash_joint,
        )
        return max(shares) >= _ASKED


def _finite(state: ArmState) -> bool:
    rows = (state.q, state.dq, state.position, state.quat)
    return all(np.isfinite(row).all() for row in rows)
