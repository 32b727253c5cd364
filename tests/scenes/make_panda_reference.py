"""Record poses and mass matrices of the Panda in the gym-hil wheel, for test_reference.py.

    python tests/scenes/make_panda_reference.py PATH/gym_hil/assets/panda.xml

The wheel (gym-hil 0.1.13, Apache-2.0) is needed only here. Meshes and the gripper are cut away, so
that what is left is link 0..7 with the flange.
"""

import hashlib
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco
import numpy as np

VERSION = "gym-hil 0.1.13"
NUM_POSES = 1000
SEED = 20261121
OUT = Path(__file__).parent / "data" / "panda_reference.npz"
BODIES = ("link4", "link7", "attachment")


def bare_arm(xml: str) -> mujoco.MjModel:
    """Compile the arm alone: no meshes, gripper, actuators, sensors or contacts."""
    root = ET.fromstring(xml)
    for tag in ("asset", "contact", "tendon", "equality", "actuator", "sensor"):
        for section in root.findall(tag):
            root.remove(section)
    for parent in list(root.iter()):
        for child in list(parent):
            is_mesh = child.tag == "geom" and parent.tag != "default"
            if is_mesh or child.tag == "mesh" or child.get("name") == "base_mount":
                parent.remove(child)
    return mujoco.MjModel.from_xml_string(ET.tostring(root, encoding="unicode"))


def record(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Random poses inside the limits: q [rad], body poses [m, wxyz], mass matrix [kg m^2]."""
    low, high = model.jnt_range.T
    q = np.random.default_rng(SEED).uniform(low, high, (NUM_POSES, model.nq))
    data = mujoco.MjData(model)
    ids = [model.body(name).id for name in BODIES]
    upper = np.triu_indices(model.nv)
    pos, quat, mass = [], [], []
    for row in q:
        data.qpos[:] = row
        mujoco.mj_forward(model, data)
        full = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, data, full)
        pos.append(data.xpos[ids].copy())
        quat.append(data.xquat[ids].copy())
        mass.append(full[upper])
    return {"q": q, "pos": np.array(pos), "quat": np.array(quat), "mass": np.float32(mass)}


def main() -> None:
    """Read the XML named on the command line, write the fixture beside this script."""
    text = Path(sys.argv[1]).read_bytes()
    arrays = record(bare_arm(text.decode()))
    digest = hashlib.sha256(text).hexdigest()
    np.savez_compressed(OUT, **arrays, source=VERSION, sha256=digest, bodies=BODIES)
    sys.stdout.write(f"{OUT}: {OUT.stat().st_size} bytes, {NUM_POSES} poses, sha256 {digest}\n")


if __name__ == "__main__":
    main()
