"""What a policy sees of a batch of worlds: the task's numbers and, if asked for, pictures."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, cast

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import tyro
from jaxtyping import Array, Float, Int

from mjx_serl.envs.appearance import Look, LookConfig, apply_look, draw_looks
from mjx_serl.envs.control.controller import ControlConfig
from mjx_serl.envs.delay import Ring, at_age
from mjx_serl.envs.env import Env, EnvState
from mjx_serl.envs.judge import VERDICT, Judge
from mjx_serl.envs.rendering import build_renderer
from mjx_serl.envs.stacking import by_frame, newest, pushed, repeated
from mjx_serl.envs.variation import Varied
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import (
    MOST_DEPTH,
    MOST_STACKED,
    Contract,
    depth_levels,
)
from scenes.contract.ranges import MOST_SEED, check_ranges, ranged, require_number
from scenes.contract.serialize import later_field
from scenes.contract.specs import CameraSpec, ObsField, ObsSpec
from scenes.specs import SceneSpec
from splat_render.types import BodyPoses, GaussianSet

if TYPE_CHECKING:
    from splat_render.scene_renderer import SceneRenderer

FEATURES = "picture_features"  # what a frozen encoder adds to the observation
RANDOMIZED = "randomized"  # what a world has drawn, for critics: -1 to 1 in each range
CONTACTS = "contacts"  # how hard things press where the scene has touch readings, for critics
TRUE = "true_"  # begins the names of what critics see without noise and delay


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """The cameras of an environment; without any the policy sees the task's numbers alone.

    Attributes:
        cameras: names of the scene's cameras, for example front wrist. With cameras the policy
            no longer sees what only a simulator knows (`ObsField.privileged`).
        size: width and height of the pictures [px].
        backend: auto, cpu, xla, splax or gsplat.
        splats: about how many splats the scene is baked into.
        cached: draw what never moves once per fixed camera.
        look: domain randomisation of the appearance.
        seed: of the looks.
        frozen: a trained encoder whose features are observed instead of the pictures, so that the
            learner never sees a pixel: pick_cube or pick_cube_varied (cameras mounted
            elsewhere, other light), ours of that task; of any task
            efficientnet_lite0 or xfeat, from packages of PyPI, or resnet10_random, which nobody
            trained; or a file of `python -m mjx_serl.pretraining`, of SERL's ResNet-10 too. None
            observes pictures.
        readout: what is observed of a trunk that others trained (`frozen`): places, where in the
            picture each channel is active; or its last maps, of which the learner makes spatial
            embeddings (`agent.encoder.features` a camera), as SERL's "resnet-pretrained".
        stack: pictures that are observed at once, the last so many control steps', oldest first;
            an episode's first one is repeated. Each is stored once; 1 observes the present alone.
        depth: metres up to which depth is a fourth channel of the pictures, in 255 steps; what is
            farther, or nothing, is 255. Exact: no sensor's noise or holes. 0 leaves it out.
        privileged: also observe what only a simulator knows.
        critic_obs: critics learn from what only a simulator knows, without noise or delay, and from
            what a world has drawn (`RANDOMIZED`) and the scene's touch readings (`CONTACTS`); the
            policy sees no more than without. Also where there are no cameras.
        scan: a scanned scene, a folder of one .ply per body (docs/scans.md); what it lacks is
            baked. None bakes all.
        room: wood or lab, or a file of `python -m splat_render.assets.bake --room`: a table, walls
            and things on it in place of all that is part of the world. None is the scene's own.
        shadows: draw a soft shadow on the table below objects and hands that come near it.
        surfaces: .npz files of robot surfaces beyond the shipped ones, also `--pixels.looks`.
        assets: digest of those files, which a run fills in when it begins; a run whose files have
            changed since is refused.
    """

    cameras: tuple[str, ...] = ()
    size: int = ranged(64, least=1, most=4096)
    backend: str = "auto"
    splats: int = ranged(3000, least=1)
    cached: bool = True
    look: LookConfig = dataclasses.field(default_factory=LookConfig)
    seed: int = ranged(0, least=0, most=MOST_SEED)
    frozen: str | None = None
    privileged: bool = False
    scan: Path | None = later_field(None)
    room: str | None = later_field(None)
    shadows: bool = later_field(False)
    surfaces: Annotated[tuple[Path, ...], tyro.conf.arg(aliases=("--pixels.looks",))] = later_field(
        ()
    )
    assets: tyro.conf.Suppress[str] = later_field("")
    critic_obs: bool = later_field(False)
    readout: Literal["places", "maps"] = later_field("places")
    stack: int = later_field(1)
    depth: float = later_field(0.0)

    def __post_init__(self) -> None:
        check_ranges(self)
        require_number("pixels.stack", self.stack, least=1, most=MOST_STACKED, whole=True)
        for name, value, none in (("stack", self.stack, 1), ("depth", self.depth, 0)):
            if value != none and not self.cameras:
                raise InputError(f"pixels.{name} {value:g} without cameras, allowed: {none}")
        require_number("pixels.depth", self.depth, least=0, most=MOST_DEPTH)
        if self.depth and self.frozen is not None:
            raise InputError(
                f"pixels.depth {self.depth:g} with --pixels.frozen, which reads colours; allowed: 0"
            )
        if self.readout == "maps" and self.frozen is None:
            raise InputError("pixels.readout maps without a trunk, allowed: with --pixels.frozen")
        if len(set(self.cameras)) < len(self.cameras):
            raise InputError(f"PixelConfig: cameras {self.cameras} names one twice")

    def specs(self, scene: SceneSpec) -> tuple[CameraSpec, ...]:
        """Return the cameras with their size; raises KeyError for one that the scene lacks."""
        return tuple(
            dataclasses.replace(scene.camera(name), width=self.size, height=self.size)
            for name in self.cameras
        )

    @property
    def shipped_room(self) -> str:
        """The room's name where every installation has it, else ""."""
        from splat_render.assets.rooms.stored import is_shipped

        return self.room if self.room is not None and is_shipped(self.room) else ""

    def pinned(self) -> "PixelConfig":
        """Return it with absolute paths and the digest of their files.

        Raises FileNotFoundError, and InputError where there is a digest that differs.
        """
        from splat_render.assets.scene import digest_of  # imported late, as in `build_renderer`

        found = digest_of(self.scan, self.surfaces, self.room)
        if self.assets not in ("", found):
            raise InputError(
                "The scan, room or surfaces have changed since the run began (digest "
                f"{found[:12]}..., then {self.assets[:12]}...): put the old files back, or begin a "
                "new run"
            )
        scan = None if self.scan is None else self.scan.resolve()
        surfaces = tuple(path.resolve() for path in self.surfaces)
        room = self.room
        if room is not None and not self.shipped_room:
            room = str(Path(room).resolve())
        return dataclasses.replace(self, scan=scan, room=room, surfaces=surfaces, assets=found)

    def splats_of(
        self, model: mujoco.MjModel, *, cameras: Sequence[CameraSpec] = ()
    ) -> GaussianSet:
        """Return the splats of a scene that these cameras (`specs`) will see."""
        from splat_render.assets.scene import scanned_scene

        return scanned_scene(
            model,
            scan=self.scan,
            room=self.room,
            surfaces=self.surfaces,
            budget=self.splats,
            cameras=cameras,
        )

    def undrawn(self, env: Env) -> "Observer":
        """Return an observer that says what is observed and cannot draw it, at no cost.

        Raises KeyError for an unknown camera.
        """
        if not self.specs(env.scene.spec):
            return Observer(env)
        return Observer(env, CameraView(self, cast("SceneRenderer", None)))

    def build(self, env: Env, encoder: "PictureEncoder | None" = None) -> "Observer":
        """Return the observer with its renderer.

        Raises KeyError for an unknown camera, BackendError, ValueError.

        Args:
            env: one world.
            encoder: what `frozen` names.
        """
        if not self.cameras:
            if self.backend != "auto":
                from splat_render.backend import require_backend

                # It draws nothing, and a wrong name is one all the same.
                require_backend(self.backend)
            if self.room is not None:
                from splat_render.assets.rooms.stored import room_file

                room_file(self.room)
            return Observer(env, critic_obs=self.critic_obs)
        _check_drawn(env)
        pinned = self.pinned()
        view = CameraView(pinned, build_renderer(pinned, env), encoder)
        return Observer(env, view, critic_obs=self.critic_obs)


def _check_drawn(env: Env) -> None:
    """Raise InputError where worlds differ in what their pictures would not show."""
    for term in getattr(env.task, "randomize", ()):
        if term.field in ("size", "table_height"):
            raise InputError(
                f"{term}: pictures are drawn from one scene and do not show it, allowed: without "
                "cameras"
            )


class PictureEncoder(Protocol):
    """A trained encoder that is only applied; nothing here learns."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features: [D], or of maps [cameras, H, W, C]."""
        ...

    def __call__(self, pictures: Obs) -> Float[Array, "N ..."]:
        """Return features of pictures uint8 [N, H, W, 3] by camera."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class CameraView:
    """The cameras of an environment with their renderer.

    Attributes:
        config: names and size of the pictures, and how much their appearance varies.
        renderer: of the scene.
        encoder: makes features of the pictures; None where the pictures are observed themselves.
    """

    config: PixelConfig
    renderer: "SceneRenderer"
    encoder: PictureEncoder | None = None

    def observe(self, worlds: EnvState, look: Look) -> Obs:
        """Return what is observed of the pictures: themselves, or an encoder's features."""
        return self.encoded(self.pictures(worlds, look))

    def encoded(self, pictures: Obs) -> Obs:
        """Return what is observed of pictures that are drawn."""
        return pictures if self.encoder is None else {FEATURES: self.encoder(pictures)}

    def pictures(self, worlds: EnvState, look: Look) -> Obs:
        """Return uint8 [N, H, W, 3] per camera, [N, H, W, 4] with depth."""
        poses = BodyPoses(*(self.late_poses(worlds) or (worlds.sim.xpos, worlds.sim.xquat)))
        frame = self.renderer.render(poses, look.variant)
        seen = apply_look(self.config.look, look, frame.rgb)
        if self.config.depth:
            levels = depth_levels(frame.depth, self.config.depth)
            seen = jnp.concatenate([seen, levels[..., None]], axis=-1)
        return {name: seen[:, i] for i, name in enumerate(self.config.cameras)}

    def late_poses(self, worlds: EnvState) -> tuple[Array, Array] | None:
        """Poses [N, nbody, 3 or 4] that pictures show late; None where they show the present."""
        varied = getattr(worlds, "varied", ())
        if not isinstance(varied, Varied) or not isinstance(varied.poses, Ring):
            return None
        return jax.vmap(at_age)(varied.poses, varied.poses.lag)

    def fields(self) -> tuple[ObsField, ...]:
        """Return one image field per camera, or one of the features of all, of one step."""
        if self.encoder is not None:
            shape = self.encoder.shape
            modality = "maps" if len(shape) > 1 else None
            return (ObsField(name=FEATURES, shape=shape, unit="1", modality=modality),)
        return self.picture_fields()

    def picture_fields(self) -> tuple[ObsField, ...]:
        """Return one image field per camera."""
        shape = (self.config.size, self.config.size, 4 if self.config.depth else 3)
        return tuple(
            ObsField(name=name, shape=shape, dtype="uint8", unit="1/255", scale=255.0)
            for name in self.config.cameras
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Observer:
    """Makes observations of worlds; without cameras they are the task's own.

    Besides the worlds it needs their `Look` (an empty tuple without cameras) and their pictures.

    Attributes:
        env: one world.
        cameras: None where the policy sees no pictures.
        critic_obs: see `PixelConfig`.
        judge: pays and ends episodes in place of the task; None where the task does.
    """

    env: Env
    cameras: CameraView | None = None
    critic_obs: bool = False
    judge: Judge | None = None

    @property
    def traceable(self) -> bool:
        """Whether `pictures` may be called under jit; else between compiled calls only."""
        return self.cameras is None or self.cameras.renderer.chosen.backend.TRACEABLE

    @property
    def obs_spec(self) -> ObsSpec:
        """Names, shapes and units of what `observe` returns."""
        return self.stored_spec.stacked(self.stacked, self.stack)

    @property
    def stored_spec(self) -> ObsSpec:
        """The same where pictures are of one step alone, as `stored` returns them."""
        spec = self.env.obs_spec
        if self.cameras is None and not self.critic_obs:
            return spec
        pictures = () if self.cameras is None else self.cameras.fields()
        return ObsSpec(fields=(*self._numbers(), *pictures, *self._critic_fields()))

    @property
    def stack(self) -> int:
        """Pictures that are observed at once."""
        return 1 if self.cameras is None else self.cameras.config.stack

    @property
    def stacked(self) -> tuple[str, ...]:
        """Names of the observations that are stacks; () where none is."""
        if self.cameras is None or self.stack == 1:
            return ()
        return tuple(field.name for field in self.cameras.fields())

    def _numbers(self) -> tuple[ObsField, ...]:
        """Return the fields that are observed of the task's own observation."""
        every = self.cameras is None or self.cameras.config.privileged
        return tuple(f for f in self.env.obs_spec.fields if every or not f.privileged)

    def _critic_fields(self) -> tuple[ObsField, ...]:
        """Return what critics see beyond the policy."""
        if not self.critic_obs:
            return ()
        hidden = [
            dataclasses.replace(field, name=f"{TRUE}{field.name}", critic_only=True)
            for field in self.env.obs_spec.fields
            if field.privileged
        ]
        if self.env.variation is not None:
            count = len(self.env.variation.randomization.draws)
            hidden.append(ObsField(name=RANDOMIZED, shape=(count,), unit="1", critic_only=True))
        if len(places := self._pressed):
            field = ObsField(
                name=CONTACTS, shape=(len(places),), unit="N", scale=10.0, critic_only=True
            )
            hidden.append(field)
        return tuple(hidden)

    @cached_property
    def _pressed(self) -> Int[np.ndarray, " S"]:
        """Places in sensordata of the scene's touch readings."""
        scene = self.env.scene
        read = [scene.sensor(entry.name) for entry in scene.spec.touch]
        return np.concatenate(read) if read else np.zeros(0, int)

    def _critic_obs(self, worlds: EnvState) -> Obs:
        """Return the values of `_critic_fields`."""
        names = [field.name for field in self._critic_fields()]
        varied, variation = worlds.varied, self.env.variation
        truth = worlds.obs if variation is None else variation.truth(varied, worlds.obs)
        seen = {name: truth[name.removeprefix(TRUE)] for name in names if name.startswith(TRUE)}
        if RANDOMIZED in names and variation is not None:
            seen[RANDOMIZED] = variation.shares(varied.drawn.numbers)
        if CONTACTS in names:
            seen[CONTACTS] = worlds.sim.sensordata[..., self._pressed]
        return seen

    @property
    def has_contract(self) -> bool:
        """Whether a bridge could run such a policy: one arm that goes where it is told."""
        return isinstance(self.env.task.control, ControlConfig)

    @property
    def contract(self) -> Contract:
        """What a policy trained on these observations takes for granted about its arm.

        A frozen encoder counts as part of the policy: its pictures are observed, not its features.
        Raises InputError where no bridge could keep it.
        """
        env, cameras = self.env, self.cameras
        spec, control = env.scene.spec, env.task.control
        if not isinstance(control, ControlConfig):
            raise InputError(
                f"Control law '{control.law}' has no contract with a robot: such a policy is "
                "trained, evaluated and played here; the bridge runs one arm under law dls or osc"
            )
        pictures = () if cameras is None else cameras.picture_fields()
        late = env.variation
        return Contract(
            robot=spec.robot,
            obs=ObsSpec(fields=(*self._numbers(), *pictures)),
            action=env.action_spec,
            ik=control.ik_spec(),
            home=spec.home_q,
            episode_steps=env.task.episode_steps,
            orientation=control.orientation,
            cameras=() if cameras is None else cameras.config.specs(spec),
            pace=control.pace,
            assets="" if cameras is None else cameras.config.assets,
            room="" if cameras is None else cameras.config.shipped_room,
            shadows=cameras is not None and cameras.config.shadows,
            camera_latency=0.0 if late is None else late.camera_latency,
            latency=(0.0, 0.0) if late is None else late.action_latency,
            stack=self.stack,
            depth=0.0 if cameras is None else cameras.config.depth,
            parts=getattr(env.task, "parts", ()),
            language=None if env.told is None else env.told.language,
        )

    def looks(self, key: PRNGKey, num: int) -> PyTree:
        """Return the appearance of `num` new episodes; () without cameras."""
        return () if self.cameras is None else draw_looks(self.cameras.config.look, key, num)

    def pictures(self, worlds: EnvState, look: PyTree, before: Obs | None = None) -> Obs:
        """Return what is observed of the pictures of worlds [N], by name; {} without cameras.

        A judge's classifier adds its `VERDICT`, which is not observed.

        Args:
            worlds: to draw.
            look: their appearance.
            before: what this returned a step earlier, or `remembered` of it, where pictures are
                stacked; None where all worlds are at the start of an episode.
        """
        if self.cameras is None:
            return {}
        classifier = None if self.judge is None else self.judge.classifier
        if classifier is None:
            return self._with_earlier(self.cameras.observe(worlds, look), worlds, before)
        seen = self.cameras.pictures(worlds, look)
        shown = self._with_earlier(self.cameras.encoded(seen), worlds, before)
        return shown | {VERDICT: classifier(colors(seen))}

    def _with_earlier(self, frames: Obs, worlds: EnvState, before: Obs | None) -> Obs:
        """Frames of one step behind those of the steps before it."""
        if self.stack == 1:
            return frames
        if before is None:
            return {name: repeated(frame, self.stack) for name, frame in frames.items()}
        fresh = worlds.t == 0
        return {name: pushed(before[name], frame, fresh) for name, frame in frames.items()}

    def remembered(self, pictures: Obs) -> Obs:
        """Return what the pictures of the next step have to know of these; {} for nothing."""
        return {name: pictures[name] for name in self.stacked}

    def nothing_seen(self, num: int) -> Obs:
        """Return `remembered` of no pictures, for `num` worlds at the start of an episode."""
        if not self.stacked:
            return {}
        spec = self.obs_spec
        return {n: jnp.zeros((num, *spec[n].shape), spec[n].dtype) for n in self.stacked}

    def stored(self, obs: Obs) -> Obs:
        """Return observations [..., N] as they are kept: of stacks their newest picture."""
        return obs | {name: newest(obs[name], self.stack) for name in self.stacked}

    def as_at_start(self, obs: Obs) -> Obs:
        """Return what is `stored` as it was observed if episodes began with it."""
        return obs | {name: repeated(obs[name], self.stack) for name in self.stacked}

    def observe(self, worlds: EnvState, pictures: Obs) -> Obs:
        """Return the observations of worlds [N] whose pictures are drawn."""
        if self.cameras is None and not self.critic_obs:
            return worlds.obs
        if VERDICT in pictures:
            pictures = {name: x for name, x in pictures.items() if name != VERDICT}
        hidden = self._critic_obs(worlds) if self.critic_obs else {}
        apart = {*pictures, *hidden}
        names = [name for name in self.obs_spec.names if name not in apart]
        return {name: worlds.obs[name] for name in names} | pictures | hidden


def encoded(encoder: PictureEncoder, cameras: Sequence[str], obs: Obs, stack: int = 1) -> Obs:
    """Return an observation with its pictures, `stack` of them in one, replaced by features."""
    pictures = {name: obs[name] for name in cameras}
    rest = {name: x for name, x in obs.items() if name not in pictures}
    return rest | {FEATURES: by_frame(encoder, pictures, stack)}


def colors(pictures: Obs) -> Obs:
    """Return pictures [..., H, W, C] without their depth."""
    return {name: x[..., :3] for name, x in pictures.items()}


def require_plain_pictures(observer: Observer) -> None:
    """Raise InputError where pictures are stacked or have depth, for what reads colours alone."""
    pixels = PixelConfig() if observer.cameras is None else observer.cameras.config
    for name, value, plain in (("stack", pixels.stack, 1), ("depth", pixels.depth, 0)):
        if value != plain:
            raise InputError(
                f"--pixels.{name} {value:g} with single colour pictures to read, allowed: {plain}"
            )
