"""Several arms under one action, each under its own law and in the frame of its own base.

What an arm alone is told and measures is what it is told and measures here: its part of the action,
its targets, its workspace box and its readings are in its own base's frame, wherever that stands.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mjx_serl.envs.control.controller import Command, ControlConfig, Controller
from mjx_serl.envs.physics.protocol import SimState
from scenes.bases import Fixed
from scenes.build import Scene
from scenes.contract.errors import InputError
from scenes.contract.quaternions import conjugate, product
from scenes.contract.rotations import UNIT_QUAT, quat_to_matrix
from scenes.contract.specs import ActionSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmsConfig:
    """Control of all arms of a scene.

    Attributes:
        arms: role and control of each, in the scene's order, which is that of the action's parts.
        law: its name among the control laws.
    """

    arms: tuple[tuple[str, ControlConfig], ...]
    law: Literal["arms"] = "arms"

    def __post_init__(self) -> None:
        for field in ("rate", "inner_rate", "law", "base", "frame"):
            found = [getattr(control, field) for _, control in self.arms]
            if len(set(found)) != 1:
                raise InputError(f"ArmsConfig: {field} is {found}, allowed: one value for all arms")

    @property
    def rate(self) -> float:
        """Policy actions per second [Hz]."""
        return self.arms[0][1].rate

    @property
    def inner_rate(self) -> float:
        """Updates of the laws per second [Hz]."""
        return self.arms[0][1].inner_rate

    @property
    def scale(self) -> float:
        """Longest end-effector step of a full action of any arm [m]."""
        return max(control.scale for _, control in self.arms)

    def of(self, role: str) -> ControlConfig:
        """Control of one arm; raises KeyError for a role that is not there."""
        return dict(self.arms)[role]

    def action_spec(self) -> ActionSpec:
        """The arms' entries one after the other, the role before each name: "left/x"."""
        parts = {role: control.action_spec() for role, control in self.arms}
        first = next(iter(parts.values()))
        return ActionSpec(
            mode=first.mode,
            names=tuple(f"{role}/{name}" for role, part in parts.items() for name in part.names),
            scale=tuple(scale for part in parts.values() for scale in part.scale),
            rate=self.rate,
            base=first.base,
            frame=first.frame,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class OwnFrame:
    """One arm of several as it would be alone, its base at the origin.

    Attributes:
        scene: the same model, that arm alone; its workspace box is in the frame of its base.
        position, quat: of the base in the world [m], wxyz.
    """

    scene: Scene
    position: tuple[float, float, float]
    quat: tuple[float, float, float, float]

    def seen(self, sim: SimState) -> SimState:
        """Return the state with all poses in the frame of the base; joints are what they are."""
        if self.position == (0.0, 0.0, 0.0) and self.quat == UNIT_QUAT:
            return sim
        turn = jnp.asarray(quat_to_matrix(self.quat), jnp.float32)
        at = jnp.asarray(self.position, jnp.float32)
        back = conjugate(np.asarray(self.quat, np.float32))
        sites = sim.site_xmat.reshape(*sim.site_xmat.shape[:-1], 3, 3)
        return sim.replace(
            xpos=(sim.xpos - at) @ turn,
            xquat=product(back, sim.xquat),
            site_xpos=(sim.site_xpos - at) @ turn,
            site_xmat=(turn.T @ sites).reshape(sim.site_xmat.shape),
        )


def own_frame(scene: Scene, role: str) -> OwnFrame:
    """Return one arm of a scene as it would be alone.

    Raises KeyError naming the roles, InputError where its base moves.
    """
    share = scene.of_arm(role)
    mounted = share.spec.arm
    if mounted.base.joints:
        raise InputError(f"Arm '{role}' stands on a base that moves, allowed: a fixed one")
    home = Fixed(pos=(0.0, 0.0, 0.0), quat=UNIT_QUAT)
    spec = dataclasses.replace(share.spec, arms=(dataclasses.replace(mounted, base=home),))
    alone = dataclasses.replace(share, spec=spec)
    return OwnFrame(alone, mounted.base_pos, mounted.base_quat)


def command_of(command: Command, index: int) -> Command:
    """One arm's command, by its place in the scene."""
    return jax.tree.map(lambda x: x[index], command)


class Arms:
    """The laws of all arms side by side; a command's leading axis is that of the arms.

    Args:
        config: of all arms of the scene, in its order; InputError for others.
        scene: compiled.
        build: makes the controller of one arm.
    """

    def __init__(
        self, config: ArmsConfig, scene: Scene, *, build: Callable[[Any, Scene], Controller]
    ) -> None:
        roles = [role for role, _ in config.arms]
        if roles != list(scene.arms):
            raise InputError(
                f"ArmsConfig: arms {', '.join(roles)}, allowed: all of the scene's, in its order: "
                f"{', '.join(scene.arms)}"
            )
        frames = [own_frame(scene, role) for role in roles]
        self._arms = [
            (frame, build(control, frame.scene), scene.arms[role].driven_ctrl_ids)
            for (role, control), frame in zip(config.arms, frames, strict=True)
        ]
        sizes = [control.action_spec().dim for _, control in config.arms]
        self._ends = np.cumsum(sizes)[:-1]
        self._nu = scene.model.nu
        first = self._arms[0][1]
        self.inner_steps, self.n_substeps = first.inner_steps, first.n_substeps

    def start(self, sim: SimState) -> Command:
        """Every arm holds where it is."""
        return _stacked([law.start(frame.seen(sim)) for frame, law, _ in self._arms])

    def command(self, last: Command, sim: SimState, action: Float[Array, " A"]) -> Command:
        """Every arm takes its part of the action."""
        parts = jnp.split(action, self._ends)
        return _stacked(
            [
                law.command(command_of(last, i), frame.seen(sim), parts[i])
                for i, (frame, law, _) in enumerate(self._arms)
            ]
        )

    def pace(self, command: Command, sim: SimState) -> Command:
        """Every arm goes on to its target."""
        return _stacked(
            [
                law.pace(command_of(command, i), frame.seen(sim))
                for i, (frame, law, _) in enumerate(self._arms)
            ]
        )

    def ctrl(self, command: Command, sim: SimState) -> Float[Array, " nu"]:
        """Each arm's actuators from its own law."""
        ctrl = jnp.zeros(self._nu)
        for i, (frame, law, driven) in enumerate(self._arms):
            own = law.ctrl(command_of(command, i), frame.seen(sim))
            ctrl = ctrl.at[driven].set(own[driven])
        return ctrl


def _stacked(commands: list[Command]) -> Command:
    return jax.tree.map(lambda *x: jnp.stack(x), *commands)
