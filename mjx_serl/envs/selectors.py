"""What a randomised term selects: names to indices in the compiled model."""

from collections.abc import Callable, Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from scenes.build import Scene
from scenes.contract.errors import UnknownNameError
from scenes.contract.names import unknown_name

ARM, GRIPPER, TABLE = "arm", "gripper", "table"


def select(scene: Scene, of: str, names: Sequence[str]) -> list[NDArray[np.integer]]:
    """Return the indices that each name selects; UnknownNameError names the allowed ones.

    Args:
        scene: compiled.
        of: "geom", "body", "dof", "actuator" or "joint".
        names: see `Randomize.selector`.
    """
    roles, named = _ROLES[of](scene), _named(scene.model, of)
    found = []
    for name in names:
        if name not in roles and name not in named:
            raise UnknownNameError(unknown_name(f"selected {of}", name, {*roles, *named}))
        found.append(np.asarray(roles.get(name, named.get(name)), np.int64).reshape(-1))
    return found


def _geoms(scene: Scene) -> dict[str, NDArray[np.integer]]:
    pads = [arm.pad_geom_ids for arm in scene.arms.values()]
    return _with_objects(scene, "geom_ids", {GRIPPER: pads})


def _bodies(scene: Scene) -> dict[str, NDArray[np.integer]]:
    arms = [arm.body_ids for arm in scene.arms.values()]
    fingers = [arm.finger_body_ids for arm in scene.arms.values()]
    objects = {name: np.array([entry.body_id]) for name, entry in scene.objects.items()}
    return objects | {ARM: np.concatenate(arms), GRIPPER: np.concatenate(fingers)}


def _dofs(scene: Scene) -> dict[str, NDArray[np.integer]]:
    return _with_objects(scene, "dof_ids", {ARM: [arm.dof_ids for arm in scene.arms.values()]})


def _actuators(scene: Scene) -> dict[str, NDArray[np.integer]]:
    arms = scene.arms.values()
    grippers = [arm.gripper_ctrl_id for arm in arms if arm.gripper_ctrl_id is not None]
    return {ARM: np.concatenate([arm.ctrl_ids for arm in arms]), GRIPPER: np.asarray(grippers)}


def _joints(scene: Scene) -> dict[str, NDArray[np.integer]]:
    arms = scene.arms.values()
    fingers = np.concatenate([arm.finger_qpos_ids for arm in arms])
    return {
        ARM: np.concatenate([arm.joint_ids for arm in arms]),
        GRIPPER: np.flatnonzero(np.isin(scene.model.jnt_qposadr, fingers)),
    }


def _with_objects(
    scene: Scene, attribute: str, arms: dict[str, list[NDArray[np.integer]]]
) -> dict[str, NDArray[np.integer]]:
    objects = {name: getattr(entry, attribute) for name, entry in scene.objects.items()}
    return objects | {role: np.concatenate(ids) for role, ids in arms.items()}


_ROLES: dict[str, Callable[[Scene], dict[str, NDArray[np.integer]]]] = {
    "geom": _geoms,
    "body": _bodies,
    "dof": _dofs,
    "actuator": _actuators,
    "joint": _joints,
}


def _named(model: mujoco.MjModel, of: str) -> dict[str, NDArray[np.integer]]:
    """Everything of a kind that has a name in the model."""
    if of == "dof":
        joints = [model.joint(i) for i in range(model.njnt)]
        return {j.name: np.arange(j.dofadr[0], j.dofadr[0] + len(j.damping)) for j in joints}
    kind = {"geom": model.geom, "body": model.body, "actuator": model.actuator}.get(of, model.joint)
    count = {"geom": model.ngeom, "body": model.nbody, "actuator": model.nu}.get(of, model.njnt)
    entries = [kind(i) for i in range(count)]
    return {entry.name: np.array([entry.id]) for entry in entries if entry.name}
