"""Objects of every shape and mount, and readings of forces."""

import dataclasses
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from scenes.build import Scene, build_scene
from scenes.layouts import pick_cube
from scenes.objects import cube
from scenes.shapes import (
    Box,
    Capsule,
    Chain,
    Compound,
    Cylinder,
    FixedMount,
    FreeMount,
    HeldMount,
    HingedMount,
    Mesh,
    Mount,
    Part,
    SlidingMount,
    Sphere,
)
from scenes.specs import ContactSpec, ObjectSpec, TouchSpec

TETRAHEDRON = """v 0 0 0
v 40 0 0
v 0 40 0
v 0 0 40
f 1 3 2
f 1 2 4
f 1 4 3
f 2 3 4
"""


KNOB = Compound((Part(shape=Box((0.03, 0.03, 0.01))), Part(shape=Sphere(0.01), pos=(0, 0, 0.02))))


def scene_of(*objects: ObjectSpec, **changes: object) -> Scene:
    return build_scene(dataclasses.replace(pick_cube(), objects=objects, **changes))


def settled(scene: Scene, steps: int = 400) -> mujoco.MjData:
    data = mujoco.MjData(scene.model)
    mujoco.mj_resetDataKeyframe(scene.model, data, 0)
    mujoco.mj_step(scene.model, data, steps)
    return data


@pytest.mark.parametrize(
    ("shape", "height"),
    [
        (Box((0.03, 0.02, 0.01)), 0.01),
        (Cylinder(0.03, 0.02), 0.02),
        (Sphere(0.025), 0.025),
        (
            Compound(
                (Part(shape=Box((0.03, 0.03, 0.01))), Part(shape=Sphere(0.01), pos=(0, 0, 0.02)))
            ),
            0.01,
        ),
    ],
)
def test_a_dropped_object_rests_on_the_table(shape, height: float) -> None:
    scene = scene_of(
        ObjectSpec(name="thing", shape=shape, mass=0.2, pos=(0.4, 0.25, height + 0.01))
    )
    data, thing = settled(scene), scene.object("thing")
    np.testing.assert_allclose(data.qpos[thing.qpos_adr + 2], height, atol=2e-3)
    np.testing.assert_allclose(scene.model.body_mass[thing.body_id], 0.2)
    assert scene.model.geom(thing.geom_id).name == "thing"


def test_a_capsule_lies_down() -> None:
    quat = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)
    entry = ObjectSpec(
        name="rod", shape=Capsule(0.02, 0.05), mass=0.1, pos=(0.4, 0.25, 0.03), quat=quat
    )
    scene = scene_of(entry)
    np.testing.assert_allclose(settled(scene).xpos[scene.object("rod").body_id, 2], 0.02, atol=1e-3)


def test_a_mesh_collides_as_its_hull(tmp_path: Path) -> None:
    file = tmp_path / "wedge.obj"
    file.write_text(TETRAHEDRON)
    entry = ObjectSpec(
        name="wedge", shape=Mesh(str(file), scale=(0.001,) * 3), mass=0.1, pos=(0.4, 0.2, 0.02)
    )
    scene = scene_of(entry)
    data = settled(scene)
    lowest = min(
        (data.geom_xpos[g] + data.geom_xmat[g].reshape(3, 3) @ v)[2]
        for g in scene.object("wedge").geom_ids
        for v in scene.model.mesh_vert
    )
    assert -2e-3 < lowest < 2e-3
    with pytest.raises(FileNotFoundError, match="Object 'wedge': its mesh .*gone.obj is not"):
        scene_of(dataclasses.replace(entry, shape=Mesh(str(tmp_path / "gone.obj"))))


def test_a_compounds_mass_is_shared_out() -> None:
    parts = (
        Part(shape=Box((0.02,) * 3), mass_share=3.0),
        Part(shape=Sphere(0.01), pos=(0, 0, 0.03)),
    )
    scene = scene_of(ObjectSpec(name="toy", shape=Compound(parts), mass=0.4, pos=(0.4, 0.2, 0.02)))
    toy = scene.object("toy")
    assert [scene.model.geom(g).name for g in toy.geom_ids] == ["toy", "toy_1"]
    np.testing.assert_allclose(scene.model.body_mass[toy.body_id], 0.4)
    np.testing.assert_allclose(scene.model.body_ipos[toy.body_id, 2], 0.03 / 4)


def test_a_part_that_does_not_touch_has_mass_and_is_passed_through() -> None:
    shell = Part(shape=Box((0.02,) * 3), touches=False, mass_share=3.0)
    ball = Part(shape=Sphere(0.005))
    entry = ObjectSpec(
        name="toy",
        shape=Compound((shell, ball)),
        mass=0.4,
        pos=(0.4, 0.2, 0.03),
        friction=(1, 0, 0),
    )
    scene = scene_of(entry)
    np.testing.assert_allclose(scene.model.body_mass[scene.object("toy").body_id], 0.4)
    # The box sinks into the table until the ball inside it rests there.
    height = settled(scene).xpos[scene.object("toy").body_id, 2]
    np.testing.assert_allclose(height, 0.005, atol=1e-3)


def test_a_held_object_goes_where_the_hand_goes_and_meets_all_but_the_hand() -> None:
    peg = ObjectSpec(name="peg", half_size=(0.01, 0.01, 0.03), mass=0.05, mount=HeldMount())
    peg = dataclasses.replace(peg, pos=(0.0, 0.0, 0.02))
    wall = dataclasses.replace(cube("wall"), mount=FixedMount())
    scene = scene_of(peg, wall)
    held, model = scene.object("peg"), scene.model
    assert len(held.qpos_ids) == len(held.dof_ids) == 0
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    for turned in (0.0, 0.3):
        data.qpos[scene.arm.qpos_ids[0]] = turned
        data.qpos[scene.arm.finger_qpos_ids] = 0.0  # through the peg
        mujoco.mj_forward(model, data)
        site = scene.arm.ee_site_id
        tip = data.site_xpos[site] + 0.02 * data.site_xmat[site].reshape(3, 3)[:, 2]
        np.testing.assert_allclose(data.xpos[held.body_id], tip, atol=1e-9)
        pairs = {tuple(sorted(contact.geom)) for contact in data.contact}
        assert all(held.geom_id not in pair for pair in pairs)
    model.body_pos[scene.object("wall").body_id] = data.xpos[held.body_id]
    mujoco.mj_forward(model, data)
    touching = {tuple(sorted(contact.geom)) for contact in data.contact}
    assert tuple(sorted((held.geom_id, scene.object("wall").geom_id))) in touching
    with pytest.raises(KeyError, match="Unknown arm that holds 'peg' 'left'"):
        scene_of(dataclasses.replace(peg, mount=HeldMount(role="left")))


def test_fixed_hinged_and_sliding_objects_have_what_they_need_of_qpos() -> None:
    wall = ObjectSpec(
        name="wall", half_size=(0.01, 0.1, 0.1), mass=1, mount=FixedMount(), pos=(0.7, 0, 0.1)
    )
    door = ObjectSpec(
        name="door",
        half_size=(0.1, 0.005, 0.1),
        mass=0.5,
        mount=HingedMount(pos=(-0.1, 0, 0), range=(0.0, 1.5), damping=0.05, friction=0.01),
        pos=(0.4, 0.3, 0.12),
    )
    drawer = ObjectSpec(
        name="drawer",
        half_size=(0.05, 0.05, 0.02),
        mass=0.3,
        mount=SlidingMount(axis=(0, 1, 0), range=(-0.1, 0.1), friction=0.5),
        pos=(0.4, -0.3, 0.1),
    )
    scene = scene_of(wall, door, drawer)
    sizes = {name: (len(x.qpos_ids), len(x.dof_ids)) for name, x in scene.objects.items()}
    assert sizes == {"wall": (0, 0), "door": (1, 1), "drawer": (1, 1)}
    with pytest.raises(ValueError, match="has a fixed mount"):
        _ = scene.object("wall").qpos_adr
    data = mujoco.MjData(scene.model)
    mujoco.mj_resetDataKeyframe(scene.model, data, 0)
    data.xfrc_applied[scene.object("drawer").body_id, 1] = 0.4  # below its friction [N]
    data.xfrc_applied[scene.object("door").body_id, 1] = 1.0
    mujoco.mj_step(scene.model, data, 200)
    # MuJoCo's friction is soft: it creeps by 1 mm in a second instead of sliding by 10 cm.
    assert abs(data.qpos[scene.object("drawer").qpos_adr]) < 3e-3
    assert data.qpos[scene.object("door").qpos_adr] > 0.5
    data.xfrc_applied[scene.object("drawer").body_id, 1] = 2.0
    mujoco.mj_step(scene.model, data, 400)
    np.testing.assert_allclose(data.qpos[scene.object("drawer").qpos_adr], 0.1, atol=5e-3)


def test_impossible_shapes_and_mounts_are_refused() -> None:
    with pytest.raises(ValueError, match="give either half_size or a shape"):
        ObjectSpec(name="both", half_size=(1, 1, 1), shape=Sphere(0.1), mass=1)
    with pytest.raises(ValueError, match="give either half_size or a shape"):
        ObjectSpec(name="neither", mass=1)
    with pytest.raises(ValueError, match="Cylinder: radius and half_height must be positive"):
        Cylinder(0.0, 0.1)
    with pytest.raises(ValueError, match="parts is empty"):
        Compound(())
    with pytest.raises(ValueError, match="axis must not be zero"):
        HingedMount(axis=(0, 0, 0))
    with pytest.raises(ValueError, match="range must be low, high"):
        SlidingMount(range=(1.0, 0.0))


def test_the_touch_reading_is_the_weight_that_rests_on_it() -> None:
    touch = (TouchSpec(name="cube_press", geom="cube"),)
    scene = build_scene(dataclasses.replace(pick_cube(), touch=touch))
    reading = settled(scene).sensordata[scene.sensor("cube_press")]
    np.testing.assert_allclose(reading, 0.1 * 9.81, rtol=1e-2)
    with pytest.raises(KeyError, match="Unknown sensor 'cube_pres'. Did you mean 'cube_press'"):
        scene.sensor("cube_pres")
    with pytest.raises(KeyError, match="Unknown geom 'cubee'. Did you mean 'cube'"):
        build_scene(dataclasses.replace(scene.spec, touch=(TouchSpec(name="x", geom="cubee"),)))


def test_the_wrist_feels_the_weight_of_what_hangs_on_it() -> None:
    spec = pick_cube()
    arm = dataclasses.replace(spec.arms[0], force_torque=True)
    scene = build_scene(dataclasses.replace(spec, arms=(arm,)))
    force = settled(scene).sensordata[scene.sensor("force")]
    gripper = arm.robot.parallel_gripper
    weight = 9.81 * (gripper.hand.mass + 2 * gripper.finger.mass)
    np.testing.assert_allclose(np.linalg.norm(force), weight, rtol=1e-3)
    assert scene.sensor("torque").tolist() == [3, 4, 5]


def chain_of(mount: Mount, **changes: Any) -> ObjectSpec:
    """A cable of twenty links, 20 cm, along x."""
    chain = Chain(links=20, length=0.01, radius=0.003, stiffness=0.1, damping=4e-3)
    level = (np.sqrt(0.5), 0.0, np.sqrt(0.5), 0.0)
    entry = ObjectSpec(name="cable", shape=chain, mass=0.008, mount=mount, quat=level)
    return dataclasses.replace(entry, **changes)


def test_a_chain_sags_as_a_beam_does() -> None:
    """A cantilever's end: w L^4 / 8 E I (Timoshenko)."""
    scene = scene_of(chain_of(FixedMount(), pos=(0.3, 0.2, 0.2)))
    data, cable = settled(scene, 2000), scene.object("cable")
    links = scene.model.geom_bodyid[cable.geom_ids]
    end = data.xpos[links[-1]] + 0.01 * data.xmat[links[-1]].reshape(3, 3)[:, 2]
    load, bending = 0.008 * 9.81 / 0.2, 0.1 * 0.01
    assert 0.2 - end[2] == pytest.approx(load * 0.19**4 / (8 * bending), rel=0.1)
    assert len(cable.qpos_ids) == len(cable.dof_ids) == 38
    assert np.abs(data.qvel).max() < 1e-3


def test_a_held_chain_starts_straight_whatever_is_named_before_it() -> None:
    """The joints of what is held come with the arm's, before those of what lies there."""
    scene = scene_of(cube(), chain_of(HeldMount(), pos=(0.0, 0.0, 0.0)))
    home = scene.model.key_qpos[0]
    assert (home[scene.object("cable").qpos_ids] == 0.0).all()
    np.testing.assert_allclose(home[scene.object("cube").qpos_ids], [0.5, 0, 0.02, 1, 0, 0, 0])


def test_a_chain_that_nothing_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="held at one end: mount must be a HeldMount or a Fixed"):
        chain_of(FreeMount())
    with pytest.raises(ValueError, match="links must be 2 or more, got 1"):
        Chain(links=1, length=0.01, radius=0.003, stiffness=0.1, damping=1e-3)


@pytest.mark.parametrize(("contact", "depth"), [(None, 1.3e-3), (ContactSpec(), 3e-4)])
def test_a_pressed_cube_sinks_in_as_deep_as_its_contact_lets_it(contact, depth: float) -> None:
    scene = scene_of(dataclasses.replace(cube(xy=(0.4, 0.25)), contact=contact))
    data, thing = mujoco.MjData(scene.model), scene.object("cube")
    mujoco.mj_resetDataKeyframe(scene.model, data, 0)
    data.xfrc_applied[thing.body_id, 2] = -25.0
    mujoco.mj_step(scene.model, data, 400)
    assert 0.02 - data.xpos[thing.body_id, 2] == pytest.approx(depth, rel=0.05)
