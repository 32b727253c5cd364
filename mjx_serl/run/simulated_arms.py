"""Several arms of one scene, each commanded and read as if it were alone.

Every arm is a `robot_bridge.drivers.simulated.World` of its own; all of them share one physics, so
that they meet at the same objects and can touch each other.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, UInt8

from mjx_serl.envs.control.controller import Command, ControlConfig
from mjx_serl.envs.control.registry import build_controller
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.physics.registry import PHYSICS
from mjx_serl.run.simulated_arm import Reader
from scenes.build import Scene
from scenes.contract.errors import InputError
from scenes.contract.rotations import multiply_quats, quat_to_matrix


class SimulatedArms:
    """One world of a scene with several arms, on native physics.

    Attributes:
        scene: of all arms.
        arms: each arm's share of it, by role.

    Args:
        scene: compiled; its first keyframe is the start of every episode.
        control: how each arm follows its target.
    """

    def __init__(self, scene: Scene, control: ControlConfig) -> None:
        self.scene = scene
        physics = PHYSICS["native"](scene.model, 1)
        shares = {role: scene.of_arm(role) for role in scene.arms}
        # Targets hold an orientation in their arm's own frame; a controller whose actions do not
        # turn would keep the same one of the world for all.
        control = dataclasses.replace(control, turn_scale=control.turn_scale or 1.0)
        self._controllers = {role: build_controller(control, one) for role, one in shares.items()}
        self._period = next(iter(self._controllers.values())).n_substeps
        self._reset = jax.jit(physics.reset)
        self._push = jax.jit(physics.step, static_argnums=2)
        self._ctrl = jax.jit(self._all_ctrl)
        self.start()
        self.arms = {role: OneOfSeveral(self, role, one) for role, one in shares.items()}

    def start(self) -> None:
        """Put the world into its first keyframe; every gripper is open."""
        home = jnp.asarray(self.scene.model.key_qpos[0], jnp.float32)
        self._carry, self.sim = self._reset(home, jnp.zeros(self.scene.model.nv))
        self.commands = {role: c.start(self.sim) for role, c in self._controllers.items()}
        self.substeps = 0

    def advance_to(self, substeps: int) -> None:
        """Let physics steps pass until `substeps` have passed since the start."""
        while self.substeps < substeps:
            phase = self.substeps % self._period
            if phase == 0:
                self._applied = self._ctrl(self.commands, self.sim)
            count = min(substeps - self.substeps, self._period - phase)
            self._carry, self.sim = self._push(self._carry, self._applied, count)
            self.substeps += count

    def _all_ctrl(self, commands: Mapping[str, Command], sim: SimState) -> Float[Array, " nu"]:
        ctrl = jnp.zeros(self.scene.model.nu)
        for role, controller in self._controllers.items():
            ids = self.scene.arms[role].driven_ctrl_ids
            ctrl = ctrl.at[ids].set(controller.ctrl(commands[role], sim)[ids])
        return ctrl


class OneOfSeveral:
    """An arm of a `SimulatedArms`; numpy in and out, float64 [m, rad, s], frame of its own base.

    Attributes:
        sim_dt: physics step [s].
        name: of its robot.

    Args:
        world: that it stands in.
        role: in that world.
        share: the scene as if it had this arm alone.
    """

    def __init__(self, world: SimulatedArms, role: str, share: Scene) -> None:
        mounted = share.spec.arm
        if mounted.base.joints:
            raise InputError(f"Arm '{role}' stands on a base that moves, allowed: a fixed one")
        self.sim_dt, self.name = float(share.model.opt.timestep), mounted.robot.name
        self._world, self._role, self._read = world, role, Reader(share)
        self._position = np.asarray(mounted.base_pos, np.float64)
        self._quat = np.asarray(mounted.base_quat, np.float64)
        self._rotation = quat_to_matrix(mounted.base_quat)
        self._substeps = 0

    def start(self, episode: int) -> None:
        """Put the whole world into its start; every episode has the same."""
        del episode
        self._world.start()
        self._substeps = 0

    def command(
        self, position: Float64[np.ndarray, " 3"], quat: Float64[np.ndarray, " 4"], width: float
    ) -> None:
        """Set the target of the tool centre [m], wxyz, and the gripper's opening [m]."""
        at, turned = self._to_world(position, quat)
        command = self._world.commands[self._role]
        self._world.commands[self._role] = command.replace(
            target=at,
            position=at,
            target_quat=turned,
            quat=turned,
            gripper=jnp.asarray(self._read.closure(width), jnp.float32),
        )

    def advance(self, substeps: int) -> None:
        """Let physics steps pass; the others' targets stay, and their time passes too."""
        self._substeps += substeps
        self._world.advance_to(self._substeps)

    def joints(self) -> tuple[Float64[np.ndarray, " J"], Float64[np.ndarray, " J"]]:
        """Positions [rad] and velocities [rad/s]."""
        return self._read.joints(self._world.sim)

    def tool(self) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 4"]]:
        """Position [m] and orientation (wxyz) of the tool centre."""
        position, quat = self._read.tool(self._world.sim)
        return self._at(position), self._turned(quat)

    def width(self) -> float:
        """Opening of the gripper [m]."""
        return self._read.width(self._world.sim)

    def objects(self) -> dict[str, Float64[np.ndarray, " 3"]]:
        """Positions of the scene's objects by name [m]."""
        return {name: self._at(x) for name, x in self._read.objects(self._world.sim).items()}

    def orientations(self) -> dict[str, Float64[np.ndarray, " 4"]]:
        """Orientations of the scene's objects by name, wxyz."""
        return {n: self._turned(q) for n, q in self._read.orientations(self._world.sim).items()}

    def pictures(self) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
        """Nothing: no camera is drawn."""
        return {}

    def judge(self) -> tuple[bool, bool]:
        """Neither solved nor over: there is no task."""
        return False, False

    def _to_world(self, position: np.ndarray, quat: np.ndarray) -> tuple[Array, Array]:
        as_float32 = partial(jnp.asarray, dtype=jnp.float32)
        at = self._position + self._rotation @ position
        return as_float32(at), as_float32(multiply_quats(self._quat, quat))

    def _at(self, position: np.ndarray) -> np.ndarray:
        return (position - self._position) @ self._rotation

    def _turned(self, quat: np.ndarray) -> np.ndarray:
        return multiply_quats(self._quat * (1.0, -1.0, -1.0, -1.0), quat)
