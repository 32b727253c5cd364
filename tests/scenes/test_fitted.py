"""Scenes with the values of a fit: in the compiled model, and refused where they do not belong."""

import dataclasses
from pathlib import Path

import mujoco
import numpy as np
import pytest
from robot_fits import make_fit

from scenes.build import build_scene
from scenes.contract.robot_fit import save_robot_fit
from scenes.fitted import fitted_scene, with_dynamics_of, with_fit
from scenes.layouts import pick_cube
from scenes.robots import robot_named


def test_the_model_has_the_fitted_values() -> None:
    spec = fitted_scene(pick_cube(), make_fit())
    scene, plain = build_scene(spec), build_scene(pick_cube())
    arm, model = scene.arm, scene.model
    assert model.actuator_gainprm[arm.ctrl_ids, 0].tolist()[:2] == [4500.0, 4000.0]
    assert model.dof_frictionloss[arm.dof_ids].tolist() == [0.5, *[0.0] * 6]
    assert model.body_mass.sum() == pytest.approx(plain.model.body_mass.sum() + 0.3)
    # Nobody carries a payload but the drives: they give way by its torque over their stiffness.
    data = mujoco.MjData(model)
    mujoco.mj_resetDataKeyframe(model, data, 0)
    for _ in range(4):
        mujoco.mj_step(model, data, 500)
    jac = np.zeros((3, model.nv))
    mujoco.mj_jacSite(model, data, jac, None, arm.ee_site_id)
    sag = -0.3 * 9.81 * jac[2, arm.dof_ids] / np.asarray(spec.robot.kp)
    moved = data.qpos[arm.qpos_ids] - scene.spec.home_q
    assert moved[1:] == pytest.approx(sag[1:], abs=1e-6) and np.abs(sag).max() > 1e-4


def test_without_a_fit_nothing_changes(tmp_path: Path) -> None:
    assert with_fit(None) is None
    save_robot_fit(tmp_path / "a.json", make_fit())
    change = with_fit(tmp_path / "a.json")
    assert change is not None and change(pick_cube()) == fitted_scene(pick_cube(), make_fit())
    assert with_dynamics_of(pick_cube(), robot_named("panda")) == pick_cube()
    known = with_dynamics_of(pick_cube(), fitted_scene(pick_cube(), make_fit()).robot)
    assert known == fitted_scene(pick_cube(), make_fit())


def test_a_fit_that_does_not_belong_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"fit is of a 'panda', allowed here: piper"):
        fitted_scene(pick_cube(robot_named("piper")), make_fit())
    with pytest.raises(ValueError, match=r"fit it again with --sim-dt 0\.002"):
        fitted_scene(dataclasses.replace(pick_cube(), sim_dt=0.002), make_fit())
    with pytest.raises(ValueError, match="not for imported"):
        fitted_scene(object(), make_fit())


@pytest.mark.parametrize(
    "change", [{"friction_loss": (0.1,)}, {"friction_loss": (-0.1,) * 7}, {"payload": -1.0}]
)
def test_losses_that_cannot_be_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"friction_loss"):
        dataclasses.replace(robot_named("panda"), **change)
