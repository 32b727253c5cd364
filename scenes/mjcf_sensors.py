"""Contact readings as MJCF: a touch sensor around a named geom.

MuJoCo's touch sensor sums the normal forces of its body's contacts whose normals meet a site, and
MJX computes it too (its contact sensor cannot give a net force).
"""

from collections.abc import Sequence

import mujoco
import numpy as np

from scenes.contract.names import unknown_name
from scenes.specs import TouchSpec

_MARGIN = 1e-3  # [m] a contact lies up to its depth outside of the geom


def add_touch(builder: mujoco.MjSpec, touch: Sequence[TouchSpec]) -> None:
    """Add touch sensors; raises KeyError where a geom is not there."""
    if not touch:
        return
    model = builder.copy().compile()  # where a geom's bounding box is, is known once compiled
    names = [model.geom(i).name for i in range(model.ngeom)]
    for entry in touch:
        if entry.geom not in names:
            raise KeyError(unknown_name("geom", entry.geom, [name for name in names if name]))
        _add_site(builder, model, entry)
        builder.add_sensor(
            name=entry.name,
            type=mujoco.mjtSensor.mjSENS_TOUCH,
            objtype=mujoco.mjtObj.mjOBJ_SITE,
            objname=f"{entry.name}_touch",
        )


def _add_site(builder: mujoco.MjSpec, model: mujoco.MjModel, entry: TouchSpec) -> None:
    geom = model.geom(entry.geom).id
    center, half = np.split(model.geom_aabb[geom], 2)
    pos, quat = np.empty(3), np.empty(4)
    mujoco.mju_rotVecQuat(pos, center, model.geom_quat[geom])
    quat[:] = model.geom_quat[geom]
    builder.geom(entry.geom).parent.add_site(
        name=f"{entry.name}_touch",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=pos + model.geom_pos[geom],
        quat=quat,
        size=half + _MARGIN,
        group=4,
    )
