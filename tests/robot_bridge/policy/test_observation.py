"""What a policy sees of a real arm: the contract's fields, and pictures cut as the simulator's."""

import dataclasses
import math

import numpy as np
import pytest
from bench_arm import CAMERA, Bench, FakeEye, bench_contract

from robot_bridge.clock import ManualClock
from robot_bridge.policy.observation import FixedObjects, ObservationBuilder, fit_picture

CUBE = {"cube": (0.45, 0.05, 0.02)}


def pinhole(width: int, height: int, fovy: float) -> tuple[float, float, float, float]:
    focal = height / 2 / math.tan(math.radians(fovy) / 2)
    return focal, focal, width / 2, height / 2


def test_a_picture_of_the_simulators_own_camera_is_left_as_it_is() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(fit_picture(rgb, pinhole(8, 8, CAMERA.fovy), CAMERA), rgb)


def test_a_larger_picture_is_averaged_and_cut_to_the_same_view() -> None:
    small = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    # The real camera is 4 times as fine and sees as much again on both sides.
    fine = np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)
    wide = np.pad(fine, ((0, 0), (16, 16), (0, 0)))
    np.testing.assert_array_equal(fit_picture(wide, pinhole(64, 32, CAMERA.fovy), CAMERA), small)


def test_a_lens_that_sees_too_little_leaves_a_black_border() -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    seen = fit_picture(white, pinhole(32, 32, CAMERA.fovy / 2), CAMERA)
    assert seen[0].max() == 0 and seen[4, 4].min() == 255


def test_a_principal_point_off_the_middle_moves_the_view() -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None], (32, 40, 3))
    fx, fy, _, cy = pinhole(32, 32, CAMERA.fovy)
    left, right = (fit_picture(ramp, (fx, fy, cx, cy), CAMERA)[0, 0, 0] for cx in (16.0, 20.0))
    assert right - left == 4


def test_colours_stay_in_their_channels() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    seen = fit_picture(red, pinhole(16, 16, CAMERA.fovy), CAMERA)
    assert (seen[..., 0] == 200).all() and seen[..., 1:].max() == 0


def test_the_fields_are_the_contracts() -> None:
    bench = Bench(camera=True)
    builder = ObservationBuilder(bench.contract, eyes={"front": bench.eye})
    obs, seen = builder.build(bench.ticks[-1])
    assert list(obs) == list(bench.contract.obs.names)
    for field in bench.contract.obs.fields:
        assert obs[field.name].shape == field.shape and obs[field.name].dtype == field.dtype
    assert seen == bench.ticks[-1].state.t


def test_an_observation_is_as_old_as_its_oldest_part() -> None:
    bench = Bench(camera=True)
    bench.eye.age = 0.07
    builder = ObservationBuilder(bench.contract, eyes={"front": bench.eye})
    _, seen = builder.build(bench.ticks[-1])
    assert bench.clock.now() - seen == pytest.approx(0.07, abs=1e-6)


def test_what_nothing_measures_is_refused_at_once() -> None:
    with pytest.raises(KeyError, match="observes the position of: cube"):
        ObservationBuilder(bench_contract())
    with pytest.raises(KeyError, match="Unknown camera of the robot 'front'.*Allowed: wrist"):
        ObservationBuilder(bench_contract(camera=True), eyes={"wrist": FakeEye(ManualClock())})


def test_an_object_that_is_not_tracked_is_said() -> None:
    bench = Bench()
    builder = ObservationBuilder(bench.contract, objects=FixedObjects({"mug": (0, 0, 0)}))
    with pytest.raises(LookupError, match="Unknown object 'cube'"):
        builder.build(bench.ticks[-1])


def test_objects_are_seen_from_the_hand() -> None:
    bench = Bench()
    builder = ObservationBuilder(bench.contract, objects=FixedObjects(CUBE))
    tick = dataclasses.replace(bench.ticks[-1])
    obs, _ = builder.build(tick)
    expected = np.asarray(CUBE["cube"]) - tick.state.position
    np.testing.assert_allclose(obs["cube_from_ee"], expected, atol=1e-7)
