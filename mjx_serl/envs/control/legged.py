"""An arm on a walking base: steps of the tool in the base's own axes, a speed and a height."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command, ControlConfig, followed
from mjx_serl.envs.control.damped_least_squares import DampedLeastSquares
from mjx_serl.envs.control.gait import Trot, speed_of
from mjx_serl.envs.physics.protocol import SimState
from scenes.bases import Legged
from scenes.build import Scene
from scenes.contract.errors import InputError
from scenes.contract.quaternions import product

# How fast the commanded speed may change [m/s^2], [rad/s^2] (ours).
_HURRY = 1.0
# How fast the hips rise or sink [m/s]: legs drawn in faster let the trunk fall on its feet (ours).
_RISE = 0.1
# The hips over the ground [m]: what the legs can stand at with room to step (ours).
LOWEST, HIGHEST = 0.23, 0.31
# A slower speed than this is none: noise on an action need not make it tread on the spot [m/s].
STANDS = 0.05


@struct.dataclass
class LeggedCommand(Command):
    """A command whose target goes along with the base.

    Attributes:
        drive: wanted speed ahead and to the left [m/s], turning [rad/s].
        walk: what the legs are told of it by now.
        height: wanted, of the hips over the ground [m].
        stand: what the legs are told of it by now [m].
        seen: place [m] and heading [rad] of the base that the target was last put in front of.
    """

    drive: Float[Array, "*n 3"]
    walk: Float[Array, "*n 3"]
    height: Float[Array, "*n"]
    stand: Float[Array, "*n"]
    seen: Float[Array, "*n 3"]


class LeggedArm(DampedLeastSquares):
    """The legs trot at the commanded speed and height (`gait.Trot`), the arm follows its target.

    Steps of the target are along the base's heading, and its box and orientation turn with it.
    """

    def __init__(self, config: ControlConfig, scene: Scene) -> None:
        super().__init__(config, scene)
        base, model = scene.spec.arm.base, scene.model
        if not isinstance(base, Legged) or len(config.base_scale) != 4:
            raise InputError(
                f"Control law 'legged': the arm of scene '{scene.spec.name}' stands on a "
                f"{type(base).__name__}, base_scale {config.base_scale}; allowed: Legged, with four"
            )
        # The arm's share of an action; its orientation is turned with the base, so not a constant.
        self.action_spec = dataclasses.replace(config, law="dls").action_spec()
        self.fixed = None
        self.drive_scale = jnp.asarray(config.base_scale, jnp.float32)
        self.trot = Trot(base.robot, float(model.body_mass.sum()) - _loose(scene))
        self.root = int(model.jnt_bodyid[model.joint(scene.spec.arm.prefix + "base_free").id])
        self.stands_at = base.robot.foot_radius + float(_reach_down(base))

    def start(self, sim: SimState) -> LeggedCommand:
        """Stand, and hold the arm where it is."""
        start, here = super().start(sim), self.heading(sim)
        stand = jnp.full((), self.stands_at, jnp.float32)
        return LeggedCommand(
            **vars(start) | {"target_quat": turned(start.target_quat, here[2])},
            drive=jnp.zeros(3),
            walk=jnp.zeros(3),
            height=stand,
            stand=stand,
            seen=here,
        )

    def command(self, last: Command, sim: SimState, action: Float[Array, " A"]) -> LeggedCommand:
        """Move the target by the arm's share of the action, the rest is speed and height."""
        assert isinstance(last, LeggedCommand)
        arm, base = action[: self.action_spec.dim], jnp.clip(action[self.action_spec.dim :], -1, 1)
        ahead = last.replace(target=into(last.seen, last.target))
        new = super().command(ahead, sim, arm)
        asked = self.drive_scale * base
        walks = speed_of(asked[:3]) >= STANDS
        return new.replace(
            target=out_of(last.seen, new.target),
            drive=jnp.where(walks, asked[:3], 0.0),
            height=jnp.clip(last.height + asked[3], LOWEST, HIGHEST),
        )

    def pace(self, command: Command, sim: SimState) -> Command:
        """Take the target along with the base, the legs nearer to the wanted speed and height."""
        assert isinstance(command, LeggedCommand)
        here, rate = self.heading(sim), self.config.inner_rate
        most, rise = _HURRY / rate, _RISE / rate
        target = out_of(here, into(command.seen, command.target))
        quat = turned(command.target_quat, here[2] - command.seen[2])
        return command.replace(
            target=target,
            target_quat=quat,
            position=target,
            quat=quat,
            seen=here,
            walk=command.walk + jnp.clip(command.drive - command.walk, -most, most),
            stand=command.stand + jnp.clip(command.height - command.stand, -rise, rise),
        )

    def followed(self, told: Command, own: Command) -> LeggedCommand:
        """What was told, its target in front of where the base has come to and the legs as fast."""
        assert isinstance(told, LeggedCommand) and isinstance(own, LeggedCommand)
        here, before = own.seen, told.seen
        return followed(told, own).replace(
            target=out_of(here, into(before, told.target)),
            target_quat=turned(told.target_quat, here[2] - before[2]),
            walk=own.walk,
            stand=own.stand,
            seen=here,
        )

    def ctrl(self, command: Command, sim: SimState) -> Float[Array, " nu"]:
        """Joint targets of the arm and of the legs."""
        assert isinstance(command, LeggedCommand)
        ids = self.arm.base_ctrl_ids
        legs = self.trot.joints(sim.time, command.walk, command.stand)
        legs = jnp.clip(legs, self.ctrl_low[ids], self.ctrl_high[ids])
        return super().ctrl(command, sim).at[ids].set(legs)

    def heading(self, sim: SimState) -> Float[Array, " 3"]:
        """Place of the base on the ground [m] and where it looks [rad]."""
        w, x, y, z = sim.xquat[self.root]
        yaw = jnp.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        return jnp.append(sim.xpos[self.root, :2], yaw)


def into(frame: Float[Array, " 3"], point: Float[Array, " 3"]) -> Float[Array, " 3"]:
    """A point of the world as a base at a place with a heading sees it; heights stay."""
    x, y = point[0] - frame[0], point[1] - frame[1]
    c, s = jnp.cos(frame[2]), jnp.sin(frame[2])
    return jnp.stack([c * x + s * y, c * y - s * x, point[2]])


def out_of(frame: Float[Array, " 3"], point: Float[Array, " 3"]) -> Float[Array, " 3"]:
    """The inverse of `into`."""
    c, s = jnp.cos(frame[2]), jnp.sin(frame[2])
    x, y = c * point[0] - s * point[1], s * point[0] + c * point[1]
    return jnp.stack([x + frame[0], y + frame[1], point[2]])


def turned(quat: Float[Array, " 4"], angle: Float[Array, ""]) -> Float[Array, " 4"]:
    """An orientation turned about the vertical, wxyz."""
    zero = jnp.zeros(())
    return product(jnp.stack([jnp.cos(angle / 2), zero, zero, jnp.sin(angle / 2)]), quat)


def _loose(scene: Scene) -> float:
    """Mass of the objects, which the legs do not carry [kg]."""
    bodies = [entry.body_id for entry in scene.objects.values()]
    return float(scene.model.body_mass[bodies].sum())


def _reach_down(base: Legged) -> np.floating:
    """From hip to foot in the stance [m]."""
    _, upper, knee = base.robot.stance
    thigh, calf = -base.robot.calf.pos[2], -base.robot.foot_pos[2]
    return np.float64(thigh * np.cos(upper) + calf * np.cos(upper + knee))
