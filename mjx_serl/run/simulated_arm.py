"""The training environment as an arm: one world that is commanded and read like a robot.

The bridge drives it through `robot_bridge.drivers.simulated.SimDriver`, so that a policy meets
the code that will run it on hardware while the physics is still the one it was trained in.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float, Float64, UInt8

from mjx_serl.envs.control.controller import Command
from mjx_serl.envs.control.kinematics import tool_quat
from mjx_serl.envs.env import EnvState, make_env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.physics.protocol import SimState
from mjx_serl.envs.task import TaskState
from mjx_serl.tasks.alternating import Alternating
from mjx_serl.training.collect import noisy_expert
from mjx_serl.training.episodes import episode_keys
from mjx_serl.training.evaluate import ON_DEMAND, stream_key
from mjx_serl.types import PRNGKey, PyTree
from scenes.build import Scene
from scenes.contract.errors import InputError
from scenes.contract.language import BYTES
from scenes.contract.policy_contract import Contract
from scenes.contract.ranges import require_episodes, require_seed
from scenes.contract.serialize import digest
from scenes.fitted import with_dynamics_of


class Reader:
    """What a robot measures of its world: numpy, float64 [m, rad, s], world frame.

    Args:
        scene: with one arm.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene, self._arm = scene, scene.arm
        self._widest = scene.spec.robot.parallel_gripper.width_range[1]

    def joints(self, sim: SimState) -> tuple[Float64[np.ndarray, " J"], Float64[np.ndarray, " J"]]:
        """Positions [rad] and velocities [rad/s]."""
        qpos, qvel = np.asarray(sim.qpos), np.asarray(sim.qvel)
        arm = self._arm
        return qpos[arm.qpos_ids].astype(np.float64), qvel[arm.dof_ids].astype(np.float64)

    def tool(self, sim: SimState) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 4"]]:
        """Position [m] and orientation (wxyz) of the tool centre."""
        # What a policy observed of the orientation in training, to the last bit.
        quat = tool_quat(self._scene, np.asarray(sim.xquat))
        site = self._arm.ee_site_id
        return np.asarray(sim.site_xpos[site], np.float64), quat.astype(np.float64)

    def width(self, sim: SimState) -> float:
        """Opening of the gripper [m]."""
        return float(np.asarray(sim.qpos)[self._arm.finger_qpos_ids].sum())

    def closure(self, width: float) -> float:
        """The gripper's command at an opening [m], 0 open to 1 closed."""
        return 1.0 - width / self._widest

    def objects(self, sim: SimState) -> dict[str, Float64[np.ndarray, " 3"]]:
        """Positions of the scene's objects by name [m]."""
        xpos = np.asarray(sim.xpos, np.float64)
        return {name: xpos[entry.body_id] for name, entry in self._scene.objects.items()}

    def orientations(self, sim: SimState) -> dict[str, Float64[np.ndarray, " 4"]]:
        """Orientations of the scene's objects by name, wxyz."""
        xquat = np.asarray(sim.xquat, np.float64)
        return {name: xquat[entry.body_id] for name, entry in self._scene.objects.items()}


class SimulatedArm:
    """One world of a task; numpy in and out, float64 [m, rad, s], base frame.

    Attributes:
        sim_dt: physics step [s].
        name: of its robot.

    Args:
        observer: what it is a world of.
        seed: of its episodes.
        episodes: how many there are.
        governed: targets come paced, as a bridge's governor sends them; else they are those of
            actions and are followed as in training.
    """

    def __init__(
        self, observer: Observer, *, seed: int = 0, episodes: int = 100, governed: bool = True
    ) -> None:
        env = observer.env
        self.sim_dt = float(env.scene.model.opt.timestep)
        self.name = env.scene.spec.robot.name
        self._governed = governed
        self._observer, self._env, self._read = observer, env, Reader(env.scene)
        # The starts of `evaluate.py RUN --seed SEED --episodes EPISODES`, in its order.
        keys = episode_keys(stream_key(seed, ON_DEMAND), episodes=episodes, steps=1)
        self._starts = keys.starts
        self._looks = observer.looks(keys.look, episodes)
        self._reset = jax.jit(env.reset)
        self._ctrl = jax.jit(env.controller.ctrl)
        self._hold = jax.jit(self._held)
        self._push = jax.jit(self._pushed, static_argnums=2)
        self._success = jax.jit(env.task.success)
        self._terminated = jax.jit(env.task.terminated)
        self._expert = jax.jit(noisy_expert(env, None))
        self._key = jax.random.fold_in(stream_key(seed, ON_DEMAND), 1)
        task = env.task
        self._hand_over = jax.jit(task.handed_over) if isinstance(task, Alternating) else None
        self._shapes: EnvState = jax.eval_shape(jax.vmap(env.reset), self._starts[:1])
        # What the cameras see, until time goes on: each is asked for by itself.
        self._seen: dict[str, UInt8[np.ndarray, "H W 3"]] | None = None
        self.start(0)

    def start(self, episode: int) -> None:
        """Put the world into the start of an episode; its gripper is open."""
        state: EnvState = self._reset(self._starts[episode])
        self._look = jax.tree.map(lambda x: x[episode : episode + 1], self._looks)
        self._carry, self._sim = state.carry, state.sim
        self._command, self._task_state = state.command, state.task_state
        self._substeps, self._seen = 0, None

    @property
    def part(self) -> int:
        """Whose turn it is in a task by turns: 0 or 1; 0 in any other."""
        return 0 if self._hand_over is None else int(self._task_state.turn)

    def hand_over(self, part: int) -> None:
        """Let a part of a task by turns go on as things lie; nothing is put back."""
        assert self._hand_over is not None
        self._key, key = jax.random.split(self._key)
        self._task_state = self._hand_over(np.int32(part), self._sim, self._task_state, key)

    def command(
        self, position: Float64[np.ndarray, " 3"], quat: Float64[np.ndarray, " 4"], width: float
    ) -> None:
        """Set the target of the tool centre [m], wxyz, and the gripper's opening [m].

        Where the task's actions do not turn, the orientation stays the one of training.
        """
        target = np.asarray(position, np.float32)
        closure = np.asarray(self._read.closure(width), np.float32)
        self._command = self._command.replace(target=target, gripper=closure)
        if self._env.action_spec.turns:
            turned = np.asarray(quat, np.float32)
            self._command = self._command.replace(target_quat=turned)
        if self._governed:
            self._command = self._command.replace(position=target, quat=self._command.target_quat)

    def advance(self, substeps: int) -> None:
        """Let `substeps` physics steps pass; joint targets follow at the rate of training."""
        period = self._env.controller.n_substeps
        action = period * self._env.controller.inner_steps
        self._seen = None
        while substeps > 0:
            if not self._governed and self._substeps % action == 0 and substeps >= action:
                # The very program of training, so that not even rounding differs.
                loop = self._hold(self._carry, self._sim, self._command, self._task_state)
                self._carry, self._sim, self._command = loop
                self._substeps += action
                substeps -= action
                continue
            if self._substeps % period == 0:
                self._applied = self._ctrl(self._command, self._sim)
            count = min(substeps, period - self._substeps % period)
            self._carry, self._sim = self._push(self._carry, self._applied, count, self._task_state)
            self._substeps += count
            substeps -= count

    def _held(
        self, carry: PyTree, sim: SimState, command: Command, task_state: TaskState
    ) -> tuple[PyTree, SimState, Command]:
        carry, sim, command = self._env.hold(carry, sim, command)
        return carry, self._env.marked(sim, task_state), command

    def _pushed(
        self, carry: PyTree, ctrl: Float[Array, " nu"], substeps: int, task_state: TaskState
    ) -> tuple[PyTree, SimState]:
        carry, sim = self._env.physics.step(carry, ctrl, substeps)
        return carry, self._env.marked(sim, task_state)

    @property
    def episode_seconds(self) -> float:
        """Time limit of an episode [s]."""
        return self._env.task.episode_steps * self._env.ctrl_dt

    def expert_action(
        self,
        position: Float64[np.ndarray, " 3"],
        quat: Float64[np.ndarray, " 4"],
        closure: float,
        key: PRNGKey,
    ) -> Float64[np.ndarray, " A"]:
        """What the task's expert would do now, with its noise.

        Args:
            position, quat: what the actions so far add up to [m], wxyz: a governor is behind it.
            closure: of the gripper, 0 open to 1 closed.
            key: draws the noise.
        """
        wanted = self._command.replace(
            target=np.asarray(position, np.float32),
            target_quat=np.asarray(quat, np.float32),
            gripper=np.asarray(closure, np.float32),
        )
        one = jax.tree.map(lambda x: np.asarray(x)[None], (self._sim, wanted, self._task_state))
        sim, command, task_state = one
        world = self._shapes.replace(sim=sim, command=command, task_state=task_state)
        return np.asarray(self._expert(world, {}, key)[0], np.float64)

    def joints(self) -> tuple[Float64[np.ndarray, " J"], Float64[np.ndarray, " J"]]:
        """Positions [rad] and velocities [rad/s]."""
        return self._read.joints(self._sim)

    def tool(self) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " 4"]]:
        """Position [m] and orientation (wxyz) of the tool centre."""
        return self._read.tool(self._sim)

    def width(self) -> float:
        """Opening of the gripper [m]."""
        return self._read.width(self._sim)

    def objects(self) -> dict[str, Float64[np.ndarray, " 3"]]:
        """Positions of the scene's objects by name [m]."""
        return self._read.objects(self._sim)

    def orientations(self) -> dict[str, Float64[np.ndarray, " 4"]]:
        """Orientations of the scene's objects by name, wxyz."""
        return self._read.orientations(self._sim)

    def pictures(self) -> dict[str, UInt8[np.ndarray, "H W C"]]:
        """What the policy's own cameras see now, by name; C is 4 with depth (`depth_levels`)."""
        cameras = self._observer.cameras
        if cameras is not None and self._seen is None:
            sim = jax.tree.map(lambda x: np.asarray(x)[None], self._sim)
            # Drawing reads nothing but `sim`.
            drawn = cameras.pictures(self._shapes.replace(sim=sim, varied=()), self._look)
            self._seen = {name: np.asarray(picture[0]) for name, picture in drawn.items()}
        return self._seen or {}

    def judge(self) -> tuple[bool, bool]:
        """Whether the task is solved now, and whether the episode is over."""
        args = (self._sim, self._task_state)
        return bool(self._success(*args)), bool(self._terminated(*args))


def build_world(
    task: str,
    contract: Contract,
    *,
    seed: int,
    episodes: int,
    tokenizer_model: Path | None = None,
) -> SimulatedArm:
    """Build the world that a policy was trained in; KeyError for a task that is not registered.

    Where the policy has a tokenizer with a file, that is `tokenizer_model` on this machine. Raises
    ValueError where this version's task is no longer what the contract says, or for a number out of
    range.
    """
    require_seed(seed)
    require_episodes(episodes)
    names = tuple(camera.name for camera in contract.cameras)
    privileged = any(field.privileged for field in contract.obs.fields)
    pixels = PixelConfig(
        cameras=names,
        privileged=privileged and bool(names),
        shadows=contract.shadows,
        room=contract.room or None,
        stack=contract.stack,
        depth=contract.depth,
    )
    if names:
        pixels = dataclasses.replace(pixels, size=contract.cameras[0].width)
    if contract.assets and pixels.pinned().assets != contract.assets:
        raise InputError(
            "This policy was trained on pictures of a scan, surfaces or a room of which its bundle "
            "does not hold the files: evaluate or play its run instead"
        )
    # A policy that was trained with a fit has its numbers in the contract's robot.
    words = BYTES if contract.language is None else contract.language.tokenizer
    env = make_env(
        task,
        scene=lambda spec: with_dynamics_of(spec, contract.robot),
        tokenizer=dataclasses.replace(words, model=tokenizer_model),
    )
    observer = pixels.build(env)
    if digest(observer.contract) != digest(contract):
        raise InputError(
            f"Task '{task}' is not what this policy was trained in: the contracts differ. "
            "Export the run again with the code that trained it, or train it anew"
        )
    return SimulatedArm(observer, seed=seed, episodes=episodes)
