"""Arms by name, and what is around them, from words on a command line.

Real arms are those of `robot_bridge.drivers.registry`; the simulated one, which needs JAX, is added
by `deploy.py`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from robot_bridge.cameras.camera import Camera, CameraThread, pinhole
from robot_bridge.cameras.crop import Crop, CroppedCamera, check_crop
from robot_bridge.clock import Clock, ManualClock, MonotonicClock
from robot_bridge.control.joint_monitor import parse_joint_limits
from robot_bridge.deploy.rig import Rig, RigConfig, Senses
from robot_bridge.drivers.registry import DRIVERS, Connection, DriverEntry
from robot_bridge.drivers.replay import ReplayDriver, ReplayEye, ReplayObjects
from robot_bridge.drivers.simulated import SimDriver, SimEye, SimObjects, World
from robot_bridge.learning.workcell import WorkcellCamera
from robot_bridge.messages import Ending
from robot_bridge.policy.observation import FixedObjects
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.names import unknown_name
from scenes.contract.operator import Axes, Operator
from scenes.contract.policy_contract import Contract, objects_observed, unmeasured
from scenes.contract.ranges import require_number
from scenes.contract.specs import CameraSpec

RigMaker = Callable[[RigConfig, Contract], Rig]


def build_rig(config: RigConfig, contract: Contract, robots: Mapping[str, RigMaker]) -> Rig:
    """Connect nothing yet; KeyError names the allowed robots, ValueError what cannot be read."""
    if config.robot not in robots:
        raise UnknownNameError(unknown_name("robot", config.robot, robots))
    return robots[config.robot](config, contract)


def rig_makers() -> dict[str, RigMaker]:
    """Return what `--robot` may be: every registered driver, in real time, and a recording."""
    return {name: _real_time(entry) for name, entry in DRIVERS.items()} | {"replay": _replay}


def describe_robots() -> str:
    """One line per robot, for `--help`."""
    lines = {name: entry.summary for name, entry in DRIVERS.items()}
    lines |= {"replay": "a recording", "sim": "the simulator that the policy was trained in"}
    width = max(map(len, lines))
    return "\n".join(f"  {name:{width}}  {lines[name]}" for name in sorted(lines))


def _real_time(entry: DriverEntry) -> RigMaker:
    """A rig in real time around a driver."""

    def make(config: RigConfig, contract: Contract) -> Rig:
        clock = MonotonicClock()
        check_senses(config, contract)
        connection = Connection(
            name=config.robot,
            address=config.address,
            realtime_kernel=config.realtime_kernel,
            gripper_readings=config.gripper_readings,
            contract=contract,
            clock=clock,
        )
        return Rig(
            driver=entry.make(connection),
            clock=clock,
            senses=lambda: open_senses(config, contract, clock),
            operator=make_operator(config, contract),
            state_max_age=entry.state_max_age,
            joint_limits=parse_joint_limits(config.joint_limits),
            config=config,
        )

    return make


def _replay(config: RigConfig, contract: Contract) -> Rig:
    """A recording in lock-step."""
    if not config.address:
        raise InputError("--robot replay needs --address, the folder of a recording")
    if contract.parts:
        raise InputError(
            f"--robot replay with a task by turns ({', '.join(contract.parts)}), whose recorded "
            "episodes do not go on from each other; allowed: sim, or an arm"
        )
    clock = ManualClock()
    driver = ReplayDriver(Path(config.address), clock)
    eyes = {
        c.name: ReplayEye(driver, c.name, pinhole(c.width, c.height, fovy=c.fovy))
        for c in contract.cameras
    }
    return Rig(
        driver=driver,
        clock=clock,
        senses=lambda: Senses(objects=ReplayObjects(driver), eyes=eyes),
        homes=False,
        prepare=driver.start,
        judge=lambda: "cut" if driver.over else None,
        summary=lambda: f"replay   {driver.compared}",
    )


# -- what is around ------------------------------------------------------------------------------


def parse_places(words: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Read NAME=X,Y,Z [m]; ValueError says which word is none."""
    places = {}
    for word in words:
        name, _, numbers = word.partition("=")
        try:
            x, y, z = (float(number) for number in numbers.split(","))
        except ValueError:
            raise InputError(f"Object '{word}' is not NAME=X,Y,Z, e.g. cube=0.4,0,0.02") from None
        for number in (x, y, z):
            require_number(f"Object '{word}':", number)
        places[name] = (x, y, z)
    return places


def _pairs(config: RigConfig) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in config.cameras]
    for name, equals, source in pairs:
        if not (name and equals and source):
            raise InputError(f"Camera '{name}' is not NAME=SOURCE, e.g. front=/dev/video0")
    return [(name, source) for name, _, source in pairs]


def parse_crops(words: Sequence[str]) -> dict[str, Crop]:
    """Read NAME=X,Y,WIDTH,HEIGHT [px]; InputError says which word is none."""
    crops = {}
    for word in words:
        name, _, numbers = word.partition("=")
        try:
            crops[name] = Crop(*[int(number) for number in numbers.split(",")])
        except (TypeError, ValueError):
            raise InputError(
                f"Crop '{word}' is not NAME=X,Y,WIDTH,HEIGHT [px], e.g. wrist=80,0,480,480"
            ) from None
    return crops


def with_cameras(
    config: RigConfig, cameras: Mapping[str, WorkcellCamera], contract: Contract
) -> RigConfig:
    """The rig with a workcell's cameras; what the rig says of one itself takes their place.

    Raises UnknownNameError for cameras that the policy does not observe.
    """
    _require_observed(cameras, contract)
    given = {name for name, _ in _pairs(config)} | parse_crops(config.crops).keys()
    new = {name: camera for name, camera in cameras.items() if name not in given}
    sources = tuple(f"{name}={camera.source}" for name, camera in new.items())
    crops = tuple(f"{name}={Crop(*camera.crop)}" for name, camera in new.items() if camera.crop)
    return dataclasses.replace(config, cameras=config.cameras + sources, crops=config.crops + crops)


def _require_observed(names: Iterable[str], contract: Contract) -> None:
    observed = [camera.name for camera in contract.cameras]
    for name in names:
        if name not in observed:
            raise UnknownNameError(unknown_name("camera of the policy", name, observed))


def check_senses(config: RigConfig, contract: Contract) -> None:
    """Raise KeyError or ValueError where the policy observes what nothing is given for."""
    given = [name for name, _ in _pairs(config)]
    for camera in contract.cameras:
        if camera.name not in given:
            raise UnknownNameError(unknown_name("camera of the robot", camera.name, given))
    crops = parse_crops(config.crops)
    _require_observed(crops, contract)
    for camera in contract.cameras:
        if camera.name in crops:
            # A file's pictures are as large as they are.
            device = _is_device(dict(_pairs(config))[camera.name])
            check_crop(crops[camera.name], camera, config.size if device else None)
    places = parse_places(config.objects)
    wanted = objects_observed(contract.obs)
    for name in wanted:
        if name not in places:
            raise InputError(
                f"The policy observes the position of '{name}'. Say where it is with --objects "
                f"{name}=X,Y,Z [m], or deploy a policy that sees pictures"
            )
    missing = unmeasured(contract.obs, wanted)
    if missing:
        raise InputError(
            f"The policy observes {', '.join(missing)}, which nothing on a robot measures; train "
            "it on what an arm, its gripper and objects give, or on pictures"
        )


def open_senses(config: RigConfig, contract: Contract, clock: Clock) -> Senses:
    """Open the cameras that the contract observes and place the objects."""
    seen = {camera.name: camera for camera in contract.cameras}
    eyes: dict[str, CameraThread] = {}
    for name, source in _pairs(config):
        if name in seen:
            eyes[name] = _open_eye(config, seen[name], source, clock)
    places = parse_places(config.objects)
    objects = FixedObjects(places) if places else None
    return Senses(objects=objects, eyes=eyes, opened=[*eyes.values()])


def _is_device(source: str) -> bool:
    return source.startswith(("/dev/", "realsense"))


def _open_eye(config: RigConfig, spec: CameraSpec, source: str, clock: Clock) -> CameraThread:
    # A recording may well show the same picture for long; a camera does not.
    frozen = 0.2 if _is_device(source) else None
    camera, crop = _camera(config, source), parse_crops(config.crops).get(spec.name)
    if crop is not None:
        camera = CroppedCamera(camera, crop, spec)
    eye = CameraThread(camera, name=spec.name, frozen_after=frozen, clock=clock)
    eye.open()
    return eye


def _camera(config: RigConfig, source: str) -> Camera:
    kind, _, rest = source.partition(":")
    if kind == "realsense":
        from robot_bridge.cameras.realsense import PipelineFrames, RealSenseCamera

        return RealSenseCamera(PipelineFrames(serial=rest or None, size=config.size))
    from robot_bridge.cameras.ffmpeg import FileCamera, V4l2Camera

    intrinsics = pinhole(*config.size, fovy=config.fovy)
    if source.startswith("/dev/"):
        return V4l2Camera(source, size=config.size, intrinsics=intrinsics)
    return FileCamera(source, intrinsics=intrinsics)


def make_operator(config: RigConfig, contract: Contract) -> Operator | None:
    """A person's device, not open yet; KeyError names the allowed ones."""
    if config.operator == "none":
        return None
    allowed = ("none", "page", *_OPERATORS)
    if config.operator not in allowed:
        raise UnknownNameError(unknown_name("operator", config.operator, allowed))
    if config.operator == "page":
        from robot_bridge.operators.page import PageOperator

        return PageOperator(contract.action.names, facing=config.facing, port=config.page_port)
    return _OPERATORS[config.operator](Axes(contract.action.names, facing=config.facing))


def _keyboard(axes: Axes) -> Operator:
    from robot_bridge.operators.keyboard import KeyboardOperator, require_terminal

    # Said now, not when the arm is armed and homed.
    require_terminal()
    return KeyboardOperator(axes)


def _spacemouse(axes: Axes) -> Operator:
    from robot_bridge.operators.handheld import SpaceMouseOperator

    return SpaceMouseOperator(axes)


def _gamepad(axes: Axes) -> Operator:
    from robot_bridge.operators.handheld import GamepadOperator

    return GamepadOperator(axes)


_OPERATORS: dict[str, Callable[[Axes], Operator]] = {
    "keyboard": _keyboard,
    "spacemouse": _spacemouse,
    "gamepad": _gamepad,
}


def sim_rig(world: World, contract: Contract, operator: Operator | None = None) -> Rig:
    """A simulated world in lock-step: as fast as it goes, every episode from its own start.

    Args:
        world: to play in.
        contract: what is observed.
        operator: who takes over, at the policy's rate.

    Raises InputError where the policy observes what is no object of the world.
    """
    there = world.objects()
    missing = unmeasured(contract.obs, there)
    if missing:
        raise InputError(
            f"The policy observes {', '.join(missing)}, which nothing measures in this world: its "
            f"objects are {', '.join(sorted(there)) or 'none'}. Give what is observed a body in "
            "the task's scene, or run the policy with evaluate.py, where the task itself says it"
        )
    clock = ManualClock()
    driver = SimDriver(world, clock)

    def judge() -> Ending | None:
        solved, over = world.judge()
        return "success" if solved else "failure" if over else None

    return Rig(
        driver=driver,
        clock=clock,
        senses=lambda: Senses(
            objects=SimObjects(world, clock),
            eyes={
                camera.name: SimEye(world, clock, camera, far=contract.depth)
                for camera in contract.cameras
            },
        ),
        operator=operator,
        homes=False,
        prepare=driver.start,
        turns=world if contract.parts else None,
        judge=judge,
    )
