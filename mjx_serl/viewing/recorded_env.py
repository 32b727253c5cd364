"""A task with all cameras that a video shows: the policy's own, and views from the side."""

import dataclasses

import jax
import mujoco
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.observation import CameraView, Observer, PixelConfig, colors
from mjx_serl.envs.task import split_keys
from mjx_serl.training.episodes import start_episodes
from mjx_serl.types import Actions, Obs, PRNGKey, PyTree
from mjx_serl.viewing.policies import WorldPolicy
from scenes.contract.rotations import Quat, Vec3
from scenes.contract.specs import CameraSpec
from splat_render.cameras import axes_towards
from splat_render.types import BodyPoses, GaussianSet

SIDE = "side"
SIDE_SIZE = 256  # of the side view beside cameras that may be small [px]
# Splats that larger pictures than a policy's show the use of, by their size from [px].
_MORE_SPLATS = ((512, 30_000), (256, 10_000))


@struct.dataclass
class Views:
    """Pictures of N worlds.

    Attributes:
        recorded: of all cameras by name, uint8 [N, H, W, 3].
        observed: what the policy observes of its own: pictures, or features of them.
    """

    recorded: Obs
    observed: Obs


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedEnv:
    """One world, what a policy observes of it, and the cameras that record it.

    Attributes:
        observer: what the policy observes; its cameras record too.
        further: cameras whose pictures no policy gets.
    """

    observer: Observer
    further: Observer

    @property
    def env(self) -> Env:
        """One world."""
        return self.observer.env

    def splats(self) -> GaussianSet:
        """Return what the pictures are drawn from; shadows are on the last rows of `poses`."""
        rig = self._rig
        scene = self.further.env.scene  # has all cameras
        config = PixelConfig() if rig is None else rig.config
        splats = config.splats_of(scene.model, cameras=config.specs(scene.spec))
        shadows = None if rig is None else rig.renderer.shadows
        return splats if shadows is None else shadows.added_to(splats, scene.model.nbody)

    def poses(self, worlds: EnvState) -> BodyPoses:
        """Return the poses [N, ...] of all that `splats` are on."""
        poses, rig = BodyPoses(worlds.sim.xpos, worlds.sim.xquat), self._rig
        shadows = None if rig is None else rig.renderer.shadows
        return poses if shadows is None else shadows.around(poses)

    @property
    def _rig(self) -> CameraView | None:
        return self.further.cameras or self.observer.cameras

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of all cameras, the policy's own first."""
        rigs = (self.observer.cameras, self.further.cameras)
        return tuple(name for rig in rigs if rig for name in rig.config.cameras)

    @property
    def traceable(self) -> bool:
        """Whether `pictures` may be called under jit."""
        return self.observer.traceable and self.further.traceable

    def start(self, key: PRNGKey, episodes: int) -> tuple[EnvState, PyTree]:
        """Return fresh worlds and their looks."""
        return start_episodes(self, split_keys(key, episodes), jax.random.fold_in(key, 2))

    def looks(self, key: PRNGKey, num: int) -> PyTree:
        """Return the appearance of `num` new episodes."""
        source = self.further if self.observer.cameras is None else self.observer
        return source.looks(key, num)

    def pictures(self, worlds: EnvState, look: PyTree, before: Obs | None = None) -> Views:
        """Return what all cameras see of worlds [N], and what the policy observes of it.

        `before` is as of `Observer.pictures`.
        """
        rigs = (self.observer.cameras, self.further.cameras)
        seen = [colors(rig.pictures(worlds, look)) for rig in rigs if rig]
        every = {name: view for pictures in seen for name, view in pictures.items()}
        return Views(every, self.observer.pictures(worlds, look, before))

    def remembered(self, pictures: Views) -> Obs:
        """Return what the pictures of the next step have to know of these."""
        return self.observer.remembered(pictures.observed)

    def nothing_seen(self, num: int) -> Obs:
        """Return `remembered` before the first step of `num` worlds."""
        return self.observer.nothing_seen(num)

    def choose(self, policy: WorldPolicy, worlds: EnvState, views: Views, key: PRNGKey) -> Actions:
        """Return the actions of a policy in worlds [N]."""
        return policy(worlds, self.observer.observe(worlds, views.observed), key)

    def horizon_of(self, policy: WorldPolicy) -> int:
        """Return how many actions a policy gives at once; nothing is computed."""
        worlds = jax.eval_shape(jax.vmap(self.env.reset), split_keys(jax.random.key(0), 1))
        fields = self.observer.obs_spec.fields
        obs = {f.name: jax.ShapeDtypeStruct((1, *f.shape), f.dtype) for f in fields}
        actions = jax.eval_shape(policy, worlds, obs, jax.random.key(0))
        return actions.shape[1] if actions.ndim == 3 else 1

    def step(
        self, worlds: EnvState, action: Float[Array, "N A"]
    ) -> tuple[EnvState, Bool[Array, " N"]]:
        """Return the worlds after one step, and which of them ended with it."""
        after = jax.vmap(self.env.step)(worlds, action)
        return after, after.terminated | after.truncated


def splats_shown(size: int) -> int:
    """Return the splats that a picture of a size [px] shows the use of, 0 where a few will do."""
    return next((splats for least, splats in _MORE_SPLATS if size >= least), 0)


def build_recorded_env(
    observer: Observer, pixels: PixelConfig, *, size: int = SIDE_SIZE
) -> RecordedEnv:
    """Return a task with a side view and the scene's cameras that its observer lacks.

    Args:
        observer: what the policy observes.
        pixels: the observer's; the added cameras take backend and colours from it, and as many
            splats or, where their pictures are large, more.
        size: width and height of the added cameras [px].
    """
    env = with_side_view(observer.env)
    spec = env.scene.spec
    own = observer.cameras.config.cameras if observer.cameras else ()
    names = tuple(camera.name for camera in spec.cameras if camera.name not in own)
    # The side view stands still: shaking it randomises nothing that a policy sees.
    look = dataclasses.replace(pixels.look, camera_position=0.0, camera_angle=0.0)
    config = dataclasses.replace(
        pixels,
        cameras=names,
        size=size,
        splats=max(pixels.splats, splats_shown(size)),
        look=look,
        frozen=None,
        readout="places",
        stack=1,
        depth=0.0,
    )
    return RecordedEnv(observer, config.build(env))


def with_side_view(env: Env) -> Env:
    """Return a task whose scene has a camera `SIDE`; its own, where it has one."""
    spec = env.scene.spec
    if SIDE not in [camera.name for camera in spec.cameras]:
        spec = dataclasses.replace(spec, cameras=(*spec.cameras, side_camera()))
    return dataclasses.replace(env, scene=dataclasses.replace(env.scene, spec=spec))


def side_camera() -> CameraSpec:
    """Return a camera right of the robot, a little in front (place: our choice).

    Arm, hand and table are in its picture at once.
    """
    pos = (0.95, -0.95, 0.65)
    return CameraSpec(name=SIDE, pos=pos, quat=look_at(pos, (0.3, 0.0, 0.2)), fovy=45)


def look_at(position: Vec3, target: Vec3) -> Quat:
    """Return the orientation (wxyz) of a MuJoCo camera.

    Args:
        position: of the camera [m].
        target: a point in the centre of its picture [m]; +z is up in the picture.
    """
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, axes_towards(position, target).ravel())
    w, x, y, z = map(float, quat)
    return w, x, y, z
