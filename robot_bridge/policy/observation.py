"""What the policy sees of a real arm, made by the contract it was trained under."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from robot_bridge.cameras.camera import Frame, Intrinsics, Picture
from robot_bridge.messages import Tick
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.language import INSTRUCTION
from scenes.contract.names import unknown_name
from scenes.contract.policy_contract import (
    Contract,
    Readings,
    depth_levels,
    objects_observed,
    observe,
)
from scenes.contract.rotations import UNIT_QUAT, Quat
from scenes.contract.specs import CameraSpec, ObsSpec

# What no observation of a table-top task comes near to, in its field's scale [1].
FAR = 30.0
DARK = 8  # of 255
# What was measured later than this after the tick that it belongs to was not: its clock is another
# [s]. As far in the past it would be stale.
AHEAD = 0.1

Obs = dict[str, NDArray[Any]]


class Eye(Protocol):
    """A camera as an observation needs it."""

    @property
    def intrinsics(self) -> Intrinsics:
        """Focal lengths and principal point fx, fy, cx, cy [px]."""
        ...

    def latest(self) -> Frame | None:
        """The newest frame, None before the first; never waits."""
        ...


@runtime_checkable
class DepthEye(Protocol):
    """A camera whose frames also say how far everything is."""

    @property
    def far(self) -> float:
        """Depth that it measures at most [m]; 0 measures none."""
        ...


class ObjectSource(Protocol):
    """Where the positions of objects come from: a tracker, a fixed place, the simulator."""

    def positions(self) -> tuple[Mapping[str, NDArray[np.floating]], float]:
        """Positions by name in the base frame [m], and when they were measured [s]."""
        ...


@runtime_checkable
class TurnedObjects(Protocol):
    """A source of objects that also knows how they are turned."""

    def orientations(self) -> Mapping[str, NDArray[np.floating]]:
        """Orientations by name in the base frame, wxyz, measured with the positions."""
        ...


@dataclass(frozen=True)
class FixedObjects:
    """Objects that a person has measured and that stay where they are.

    Attributes:
        places: positions by name [m].
        quats: orientations by name, wxyz; those that are not named are not turned.
    """

    places: Mapping[str, tuple[float, float, float]]
    quats: Mapping[str, Quat] = dataclasses.field(default_factory=dict)

    def positions(self) -> tuple[Mapping[str, NDArray[np.floating]], float]:
        """The places, always up to date."""
        return {name: np.asarray(p) for name, p in self.places.items()}, float("inf")

    def orientations(self) -> Mapping[str, NDArray[np.floating]]:
        """How they are turned."""
        return {name: np.asarray(self.quats.get(name, UNIT_QUAT)) for name in self.places}


class DelayedEye:
    """The pictures of a camera that were taken `latency` [s] ago, as a policy saw them in training.

    It chooses among the pictures that were the newest when it was asked, so what it can do is as
    fine as it is asked often.
    """

    def __init__(self, eye: Eye, latency: float) -> None:
        self._eye, self._latency = eye, latency
        self._frames: list[Frame] = []

    def at(self, now: float) -> Frame | None:
        """The picture whose age at `now` [s] is nearest to the latency, None before the first."""
        newest = self._eye.latest()
        if newest is None or self._latency == 0.0:
            return newest
        if not self._frames or newest.seq != self._frames[-1].seq:
            self._frames.append(newest)
        wanted = now - self._latency
        chosen = min(self._frames, key=lambda frame: abs(frame.t - wanted))
        self._frames = [frame for frame in self._frames if frame.t >= chosen.t]
        return chosen


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a policy that reads words is told.

    Attributes:
        prompt: the instruction; "" tells it what its contract says.
        tokenizer_model: file of its tokenizer on this machine, where that has one.
    """

    prompt: str = ""
    tokenizer_model: Path | None = None

    def observed(self, contract: Contract) -> Obs:
        """Return the observation of it, {} for a policy that reads none.

        Raises InputError for words that nobody reads or that do not fit, or without the file.
        """
        if contract.language is None:
            if self.prompt:
                raise InputError(
                    f"--prompt '{self.prompt[:60]}' for a policy that reads no words; allowed: none"
                )
            return {}
        return {INSTRUCTION: contract.language.told(self.prompt, model=self.tokenizer_model)}


NO_WORDS = Words()


class ObservationBuilder:
    """Observations from ticks, objects, cameras and words.

    Raises KeyError where the contract observes what no source is given for, naming it, and
    InputError for words that do not fit.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        objects: ObjectSource | None = None,
        eyes: Mapping[str, Eye] | None = None,
        words: Words = NO_WORDS,
    ) -> None:
        self._contract, self._objects, self._eyes = contract, objects, dict(eyes or {})
        self._told = words.observed(contract)
        self._cameras = {camera.name: camera for camera in contract.cameras}
        apart = {*self._cameras, *self._told}
        self._fields = [f for f in contract.obs.fields if f.name not in apart]
        self._needed = objects_observed(ObsSpec(fields=tuple(self._fields)))
        self._check_sources()
        latency = contract.camera_latency
        self._delayed = {name: DelayedEye(self._eyes[name], latency) for name in self._cameras}
        self._start = np.asarray(contract.orientation, np.float32)

    @property
    def spec(self) -> ObsSpec:
        """What is observed."""
        return self._contract.obs

    def _check_sources(self) -> None:
        for name in self._cameras:
            if name not in self._eyes:
                raise UnknownNameError(unknown_name("camera of the robot", name, self._eyes))
            self._check_depth(name, self._eyes[name])
        if self._needed and self._objects is None:
            wanted = ", ".join(self._needed)
            raise UnknownNameError(
                f"The policy observes the position of: {wanted}. Nothing measures it here; "
                "give it with --object NAME X Y Z, or deploy a policy that sees pictures"
            )
        turned = [f.name for f in self._fields if f.name.endswith("_rotation6d")]
        turned = [name for name in turned if name.removesuffix("_rotation6d") in self._needed]
        if turned and not isinstance(self._objects, TurnedObjects):
            raise UnknownNameError(
                f"The policy observes {', '.join(turned)}, but what measures objects here "
                "measures positions alone"
            )

    def _check_depth(self, name: str, eye: Eye) -> None:
        far, wanted = eye.far if isinstance(eye, DepthEye) else 0.0, self._contract.depth
        if far < wanted:
            raise UnknownNameError(
                f"The policy observes depth up to {wanted:g} m and camera '{name}' measures "
                f"{f'it up to {far:g} m' if far else 'none'}; deploy one without --pixels.depth"
            )

    def build(self, tick: Tick) -> tuple[Obs, float]:
        """Return the observation at a tick and the time of its oldest part [s].

        Pictures that are as old as they were in training (`Contract.camera_latency`) count as new.
        Raises LookupError while a camera or an object has not been seen yet, or is stamped with a
        time to come: nobody knows how old it is.
        """
        objects, times = self._read_objects()
        for measured in times:
            if np.isfinite(measured):  # what a person has measured holds for ever
                _require_past("What measures objects", measured, tick.t)
        readings = Readings(
            ee_position=tick.state.position,
            ee_target=tick.goal.position,
            gripper_command=np.asarray(tick.goal.closure),
            gripper_width=np.asarray(tick.state.gripper_width),
            joint_velocity=tick.state.dq,
            objects=objects,
            joint_position=tick.state.q,
            ee_quat=tick.state.quat,
            ee_target_quat=tick.goal.quat,
            start_quat=self._start,
            object_quats=self._orientations(),
            part=np.asarray(tick.part, np.float32),
        )
        seen = observe([f.name for f in self._fields], readings)
        obs: Obs = {f.name: np.asarray(seen[f.name], f.dtype) for f in self._fields}
        obs |= self._told
        for name, camera in self._cameras.items():
            frame = self._delayed[name].at(tick.t)
            if frame is None:
                raise LookupError(f"Camera '{name}' has not sent a picture yet")
            obs[name] = self._picture(frame, self._eyes[name].intrinsics, camera)
            _require_past(f"Camera '{name}'", frame.t, tick.t)
            times.append(frame.t + self._contract.camera_latency)
        return obs, min([tick.state.t, *times])

    def _picture(self, frame: Frame, intrinsics: Intrinsics, camera: CameraSpec) -> NDArray:
        """What the policy observes of a frame, uint8 [H, W, 3], or 4 where it observes depth."""
        rgb, far = fit_picture(frame.rgb, intrinsics, camera), self._contract.depth
        if not far:
            return rgb
        if frame.depth is None:
            raise LookupError(f"Camera '{camera.name}' has sent a picture without depth")
        depth = _fitted(frame.depth[..., None], intrinsics, camera)
        return np.concatenate([rgb, depth_levels(depth, far)], axis=-1)

    def _orientations(self) -> Mapping[str, NDArray[np.floating]] | None:
        source = self._objects
        return source.orientations() if isinstance(source, TurnedObjects) else None

    def _read_objects(self) -> tuple[Mapping[str, NDArray[np.floating]], list[float]]:
        if not self._needed or self._objects is None:
            return {}, []
        places, measured = self._objects.positions()
        for name in self._needed:
            if name not in places:
                raise LookupError(unknown_name("object", name, places))
        return places, [measured]


def _require_past(what: str, t: float, now: float) -> None:
    # Written so that a NaN is refused.
    if not t - now <= AHEAD:
        raise LookupError(f"{what} stamps its readings {t - now:.3f} s ahead of the arm's clock")


def implausible(obs: Obs, spec: ObsSpec) -> str | None:
    """Say what no sensor that works would have measured, None where all is plausible.

    A number that is not finite or beyond `FAR` times its field's scale (millimetres for metres, a
    wild track), or a picture in which nothing is brighter than `DARK` (a covered lens).
    """
    for field in spec.fields:
        value = obs[field.name]
        if value.dtype == np.uint8:
            # A fourth channel is depth.
            if value[..., :3].max(initial=0) < DARK:
                return f"{field.name} is black"
        elif not np.isfinite(value).all():
            return f"{field.name} is not finite"
        elif np.abs(value).max(initial=0.0) > FAR * field.scale:
            return f"{field.name} is {value.tolist()} {field.unit}, which is too far to be true"
    return None


def fit_picture(rgb: Picture, intrinsics: Intrinsics, camera: CameraSpec) -> Picture:
    """Cut and shrink a real picture to what the simulated camera sees.

    The part is the one that `camera.fovy` spans around the principal point, at the aspect of
    `camera.width` x `camera.height`, averaged over areas. Beyond the picture's edge it is black.

    Args:
        rgb: [H, W, 3] in RGB order.
        intrinsics: fx, fy, cx, cy of the real camera [px], without distortion.
        camera: the simulated one.
    """
    averaged = _fitted(rgb, intrinsics, camera)
    return np.clip(np.rint(averaged), 0, 255).astype(np.uint8)


def _fitted(picture: NDArray, intrinsics: Intrinsics, camera: CameraSpec) -> NDArray[np.float32]:
    """Return [H, W, C] of what a simulated camera sees of a real picture [h, w, C]."""
    fx, fy, cx, cy = intrinsics
    half_v = np.tan(np.radians(camera.fovy) / 2)
    half_h = half_v * camera.width / camera.height
    rows = _shares(cy - fy * half_v, cy + fy * half_v, camera.height, picture.shape[0])
    columns = _shares(cx - fx * half_h, cx + fx * half_h, camera.width, picture.shape[1])
    return np.einsum("ar,rcd,bc->abd", rows, picture.astype(np.float32), columns, optimize=True)


def _shares(start: float, end: float, count: int, size: int) -> NDArray[np.float32]:
    """Weight [count, size] of each pixel in each of `count` equal cells of [start, end]."""
    edges = np.linspace(start, end, count + 1)
    left, right = edges[:-1, None], edges[1:, None]
    pixels = np.arange(size)
    overlap = np.minimum(right, pixels + 1) - np.maximum(left, pixels)
    return (np.maximum(overlap, 0.0) / (right - left)).astype(np.float32)
