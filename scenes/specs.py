"""What a robot, a scene, an action and an observation are: data with units, stdlib and numpy only.

Shared by the simulator (`scenes.build`), the environments and the robot bridge, which has no JAX.
Quaternions are wxyz. Every pose is given in the frame of its parent body.
"""

from dataclasses import dataclass
from typing import Literal

from scenes.contract.errors import InputError
from scenes.contract.names import named
from scenes.contract.robot import Rgba, RobotSpec
from scenes.contract.rotations import UNIT_QUAT, Quat, Vec3
from scenes.contract.specs import CameraSpec, require_positive, require_unique

Actuation = Literal["position", "torque"]


@dataclass(frozen=True, kw_only=True)
class ObjectSpec:
    """A free rigid box. half_size [m], mass [kg], friction (slide [1], spin [m], roll [m])."""

    name: str
    half_size: Vec3
    mass: float
    shape: Literal["box"] = "box"
    rgba: Rgba = (0.8, 0.2, 0.2, 1.0)
    friction: Vec3 = (1.0, 0.005, 0.0001)
    pos: Vec3 = (0.5, 0.0, 0.0)
    quat: Quat = UNIT_QUAT

    def __post_init__(self) -> None:
        owner = f"ObjectSpec '{self.name}'"
        if self.shape != "box":
            raise InputError(f"{owner}: shape must be 'box', got '{self.shape}'.")
        require_positive(owner, "half_size", self.half_size)
        require_positive(owner, "mass", (self.mass,))
        if min(self.friction) < 0:
            raise InputError(f"{owner}: friction must not be negative, got {self.friction}.")


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """The table, its top surface at z = 0.

    For contacts it is an infinite plane, so nothing falls off; half_size [m] and center [m] only
    say what is drawn. height [m]: distance of the drawn floor below the top.
    """

    half_size: tuple[float, float] = (0.5, 0.6)
    center: tuple[float, float] = (0.32, 0.0)
    height: float = 0.75
    friction: Vec3 = (1.0, 0.005, 0.0001)
    rgba: Rgba = (0.80, 0.70, 0.57, 1.0)

    def __post_init__(self) -> None:
        require_positive("TableSpec", "half_size", self.half_size)
        require_positive("TableSpec", "height", (self.height,))


@dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """A robot at a table with objects and cameras; `scenes.build.build_scene` compiles it.

    home: joint pose of the keyframe [rad], None = the robot's. sim_dt [s] physics step.
    actuation: "position" (joint impedance with the robot's gains) or "torque" (motors [N m]).
    solver_iterations, line_search_iterations: Newton's, fixed because MJX unrolls to the worst
    world.
    """

    name: str
    robot: RobotSpec
    table: TableSpec = TableSpec()
    objects: tuple[ObjectSpec, ...] = ()
    cameras: tuple[CameraSpec, ...] = ()
    sim_dt: float = 0.005
    home: tuple[float, ...] | None = None
    actuation: Actuation = "position"
    solver_iterations: int = 8
    line_search_iterations: int = 8

    def __post_init__(self) -> None:
        owner = f"SceneSpec '{self.name}'"
        require_positive(owner, "sim_dt", (self.sim_dt,))
        require_positive(owner, "solver_iterations", (self.solver_iterations,))
        require_positive(owner, "line_search_iterations", (self.line_search_iterations,))
        require_unique(owner, "object", [entry.name for entry in self.objects])
        require_unique(owner, "camera", [entry.name for entry in self.cameras])
        if self.actuation not in ("position", "torque"):
            raise InputError(
                f"{owner}: actuation must be 'position' or 'torque', got '{self.actuation}'."
            )
        self.robot.check_pose(self.home_q, what=f"home of scene '{self.name}'")

    @property
    def home_q(self) -> tuple[float, ...]:
        """Joint pose of the keyframe "home" [rad]."""
        return self.robot.home if self.home is None else self.home

    def object(self, name: str) -> ObjectSpec:
        """Return the object called `name`; raises KeyError naming the allowed ones."""
        return named(self.objects, name, kind="object")

    def camera(self, name: str) -> CameraSpec:
        """Return the camera called `name`; raises KeyError naming the allowed ones."""
        return named(self.cameras, name, kind="camera")
