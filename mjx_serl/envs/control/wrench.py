"""Wrench control: the action pushes and turns the end effector, and the law holds the rest."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.end_effector import EndEffector
from mjx_serl.envs.control.kinematics import damped_gram, rotation_vector, solve_spd, tool_quat
from mjx_serl.envs.physics.protocol import SimState
from scenes.build import Scene
from scenes.contract.errors import InputError
from scenes.contract.specs import FORCES, TORQUES, ActionSpec, require_positive, require_unique


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrenchConfig:
    """Control by forces and torques at the tool centre, along the axes of the base.

    In the directions that the action names the hand is free but for a drag and soft walls; in the
    others it is held where it is at the start of an episode. Stiffness and damping are those of
    SERL's compliance mode (serl_family.md 2.2), which moves a Panda with the same impedance; drags
    and `turn_limit` are ours.

    Attributes:
        wrench: name and value of a full action of each entry, of "fx", "fy", "fz" [N], "tx", "ty",
            "tz" [N m].
        rate: policy actions per second [Hz].
        inner_rate: updates of the torques per second [Hz].
        grip: closure of the gripper throughout, 0 open to 1 closed.
        stiffness, damping: of held directions, and of the walls around the workspace box [N/m],
            [N s/m].
        turn_stiffness, turn_damping: likewise of turns [N m/rad], [N m s/rad].
        drag: of pushed directions [N s/m].
        turn_drag: of turned directions [N m s/rad].
        turn_limit: furthest that the hand may be turned from its start about an axis of the action
            before a soft wall turns it back [rad].
        posture, posture_damping: of joints towards home where the hand is not moved by it
            [N m/rad], [N m s/rad].
        scale: what `expert_noise` is a share of; 1, so that it is the share itself.
        law: its name among the control laws.
    """

    wrench: tuple[tuple[str, float], ...]
    rate: float = 10.0
    inner_rate: float = 200.0
    grip: float = 1.0
    stiffness: float = 2000.0
    damping: float = 89.0
    turn_stiffness: float = 150.0
    turn_damping: float = 7.0
    drag: float = 2.0
    turn_drag: float = 0.1
    turn_limit: float = 1.0
    posture: float = 5.0
    posture_damping: float = 1.0
    scale: float = 1.0
    law: Literal["wrench"] = "wrench"

    def __post_init__(self) -> None:
        allowed = (*FORCES, *TORQUES)
        unknown = [name for name, _ in self.wrench if name not in allowed]
        if unknown or not self.wrench:
            raise InputError(
                f"WrenchConfig: wrench names {unknown or 'nothing'}, allowed: {', '.join(allowed)}"
            )
        require_unique("WrenchConfig", "wrench", [name for name, _ in self.wrench])
        require_positive("WrenchConfig", "wrench", [value for _, value in self.wrench])

    def action_spec(self) -> ActionSpec:
        """What the numbers of an action mean."""
        names, scale = zip(*self.wrench, strict=True)
        return ActionSpec(mode="wrench", names=names, scale=scale, rate=self.rate)

    @property
    def pushed(self) -> tuple[bool, ...]:
        """Which of x, y, z, rx, ry, rz the action pushes."""
        names = [name for name, _ in self.wrench]
        return tuple(name in names for name in (*FORCES, *TORQUES))


@struct.dataclass
class WrenchCommand(Command):
    """What the controller was last told; target and orientation are those at the start.

    Attributes:
        wrench: force [N] and torque [N m] at the tool centre, in the world.
    """

    wrench: Float[Array, "*n 6"]


class Wrench(EndEffector):
    """Torques tau = J^T (w + held directions + walls) + (I - J^T (J J^T)^-1 J) posture.

    The transpose law of Cartesian force control (Khatib 1987, eq. 12) without the arm's own
    inertia, which an action has to move as on the real arm; posture torques that the hand does
    not feel at rest, as franka_ros' impedance example has them. A Franka takes torques without
    gravity and friction, which it carries itself (libfranka, `franka::Torques`): gravity is
    compensated in the model, the joints' viscous friction here.
    """

    def __init__(self, config: WrenchConfig, scene: Scene) -> None:
        # What the end effector is told at the start, its box and its gripper are as there.
        shared = ControlConfig(
            rate=config.rate, inner_rate=config.inner_rate, grip=config.grip, start="measured"
        )
        super().__init__(shared, scene)
        self.law, self.action_spec = config, config.action_spec()
        places = [(*FORCES, *TORQUES).index(name) for name, _ in config.wrench]
        self.places = np.asarray(places)
        self.values = jnp.asarray([value for _, value in config.wrench], jnp.float32)
        self.free = jnp.asarray(config.pushed)
        each = (config.stiffness,) * 3 + (config.turn_stiffness,) * 3
        self.stiffness = jnp.asarray(each, jnp.float32)
        self.damping = jnp.asarray((config.damping,) * 3 + (config.turn_damping,) * 3, jnp.float32)
        self.drag = jnp.asarray((config.drag,) * 3 + (config.turn_drag,) * 3, jnp.float32)
        friction = scene.model.dof_damping[self.arm.dof_ids]
        self.friction = jnp.asarray(friction, jnp.float32)
        self.home = jnp.asarray(scene.spec.home_q, jnp.float32)

    def start(self, sim: SimState) -> WrenchCommand:
        """No wrench."""
        return WrenchCommand(**vars(super().start(sim)), wrench=jnp.zeros(6))

    def command(self, last: Command, sim: SimState, action: Float[Array, " A"]) -> Command:
        """The wrench of an action; what lies outside [-1, 1] is clipped."""
        del sim
        wrench = jnp.zeros(6).at[self.places].set(jnp.clip(action, -1.0, 1.0) * self.values)
        return last.replace(wrench=wrench)

    def pace(self, command: Command, sim: SimState) -> Command:
        """Nothing is followed."""
        del sim
        return command

    def ctrl(self, command: Command, sim: SimState) -> Float[Array, " nu"]:
        """Joint torques [N m] and the gripper's position."""
        assert isinstance(command, WrenchCommand)
        law, jac = self.law, self.jacobian(sim)
        q, dq = sim.qpos[self.arm.qpos_ids], sim.qvel[self.arm.dof_ids]
        velocity = jac @ dq
        away = self._away(command, sim)
        held = -self.stiffness * away - self.damping * velocity
        beyond = self._beyond(away, sim)
        walls = -self.stiffness * beyond - self.damping * velocity * (beyond != 0.0)
        pushed = command.wrench - self.drag * velocity + walls
        posture = law.posture * (self.home - q) - law.posture_damping * dq
        unfelt = posture - jac.T @ solve_spd(damped_gram(jac, 1e-4), jac @ posture)
        torque = jac.T @ jnp.where(self.free, pushed, held) + unfelt
        return self.assemble(torque + self.friction * dq, command)

    def _away(self, command: Command, sim: SimState) -> Float[Array, " 6"]:
        """From where the hand was at the start of the episode [m], [rad]."""
        moved = sim.site_xpos[self.arm.ee_site_id] - command.target
        turned = rotation_vector(command.target_quat, tool_quat(self.scene, sim.xquat))
        return jnp.concatenate([moved, turned])

    def _beyond(self, away: Float[Array, " 6"], sim: SimState) -> Float[Array, " 6"]:
        """How far the hand is outside its box and its largest turn [m], [rad]."""
        at = sim.site_xpos[self.arm.ee_site_id]
        limit = self.law.turn_limit
        return jnp.concatenate(
            [
                at - jnp.clip(at, self.reach.low, self.reach.high),
                away[3:] - jnp.clip(away[3:], -limit, limit),
            ]
        )
