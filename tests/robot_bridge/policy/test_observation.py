"""What a policy sees of a real arm: the contract's fields, and pictures cut as the simulator's."""

import dataclasses
import math

import numpy as np
import pytest
from bench_arm import CAMERA, Bench, FakeEye, bench_contract

from robot_bridge.cameras.camera import Frame
from robot_bridge.clock import ManualClock
from robot_bridge.policy.observation import (
    DelayedEye,
    FixedObjects,
    ObservationBuilder,
    Words,
    fit_picture,
    implausible,
)
from scenes.contract.language import INSTRUCTION, Language, TokenizerConfig, instruction_field
from scenes.contract.policy_contract import Contract
from scenes.contract.specs import ObsField, ObsSpec

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


class Tracker(FixedObjects):
    """Objects that were measured at `measured` [s]."""

    measured = 0.0

    def positions(self):
        return super().positions()[0], self.measured


@pytest.mark.parametrize("ahead", [0.15, 3600.0, math.nan])
def test_what_is_stamped_with_a_time_to_come_is_not_observed(ahead: float) -> None:
    bench = Bench(camera=True)
    bench.eye.age = -ahead
    builder = ObservationBuilder(bench.contract, eyes={"front": bench.eye})
    with pytest.raises(LookupError, match="Camera 'front' stamps its readings"):
        builder.build(bench.ticks[-1])
    if math.isnan(ahead):
        return
    tracker = Tracker(CUBE)
    tracker.measured = bench.clock.now() + ahead
    with pytest.raises(LookupError, match="What measures objects stamps its readings"):
        ObservationBuilder(bench_contract(), objects=tracker).build(bench.ticks[-1])


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


# -- orientations, and pictures as old as in training ----------------------------------------------


def observing(*fields: ObsField, **changes) -> Contract:
    return dataclasses.replace(bench_contract(), obs=ObsSpec(fields=fields), **changes)


def test_orientations_are_observed_of_a_real_arm() -> None:
    bench = Bench()
    six, three = (ObsField(name=n, shape=(k,)) for n, k in (("ee_rotation6d", 6), ("ee_turn", 3)))
    objects = ObsField(name="cube_rotation6d", shape=(6,))
    quat = (math.cos(0.25), 0.0, 0.0, math.sin(0.25))
    builder = ObservationBuilder(
        observing(six, three, objects), objects=FixedObjects(CUBE, {"cube": quat})
    )
    state = dataclasses.replace(bench.ticks[-1].state, quat=np.array([0.0, 1.0, 0.0, 0.0]))
    obs, _ = builder.build(dataclasses.replace(bench.ticks[-1], state=state))
    np.testing.assert_array_equal(obs["ee_rotation6d"], [1, 0, 0, 0, -1, 0])
    np.testing.assert_array_equal(obs["ee_turn"], [0, 0, 0])
    wanted = [math.cos(0.5), math.sin(0.5), 0, -math.sin(0.5), math.cos(0.5), 0]
    np.testing.assert_allclose(obs["cube_rotation6d"], wanted, atol=1e-6)


class PositionsOnly:
    """A tracker of points."""

    def positions(self) -> tuple[dict[str, np.ndarray], float]:
        return {"cube": np.zeros(3)}, 0.0


def test_a_source_that_cannot_tell_orientations_is_refused_at_once() -> None:
    contract = observing(ObsField(name="cube_rotation6d", shape=(6,)))
    with pytest.raises(KeyError, match="observes cube_rotation6d, but .* positions alone"):
        ObservationBuilder(contract, objects=PositionsOnly())


class Film:
    """A camera whose pictures are as bright as their number."""

    intrinsics = (9.0, 9.0, 4.0, 4.0)

    def __init__(self) -> None:
        self.taken: list[float] = []

    def latest(self) -> Frame | None:
        if not self.taken:
            return None
        picture = np.full((8, 8, 3), 10 * len(self.taken), np.uint8)
        return Frame(picture, self.taken[-1], len(self.taken))


@pytest.mark.parametrize(("latency", "behind"), [(0.0, 0), (0.1, 1), (0.12, 1), (0.2, 2)])
def test_pictures_are_as_old_as_in_training(latency: float, behind: int) -> None:
    film = Film()
    eye = DelayedEye(film, latency)
    assert eye.at(0.0) is None
    for number in range(1, 8):
        now = 0.1 * number
        film.taken.append(now)
        frame = eye.at(now)
        assert frame is not None and frame.seq == max(1, number - behind)
        # Asking twice changes nothing.
        again = eye.at(now)
        assert again is not None and again.seq == frame.seq


def test_a_picture_as_old_as_in_training_counts_as_new() -> None:
    bench = Bench(camera=True)
    late = dataclasses.replace(bench.contract, camera_latency=0.07)
    bench.eye.age = 0.07
    builder = ObservationBuilder(late, eyes={"front": bench.eye})
    _, seen = builder.build(bench.ticks[-1])
    assert seen == pytest.approx(bench.ticks[-1].state.t, abs=1e-6)


def test_a_policy_that_reads_words_is_told_the_same_at_every_tick() -> None:
    bench = Bench()
    plain, config = bench.contract, TokenizerConfig(slots=8)
    contract = dataclasses.replace(
        plain,
        obs=ObsSpec(fields=(*plain.obs.fields, instruction_field(config.build()))),
        language=Language(tokenizer=config, instruction="pick"),
    )
    for words, first in [(Words(), "p"), (Words(prompt="lift"), "l")]:
        builder = ObservationBuilder(contract, objects=FixedObjects(CUBE), words=words)
        for tick in bench.ticks[-3:]:
            obs, _ = builder.build(tick)
            assert obs[INSTRUCTION].dtype == np.int32 and obs[INSTRUCTION][0] == 3 + ord(first)
            assert implausible(obs, contract.obs) is None


def test_words_for_a_policy_that_reads_none_are_refused() -> None:
    with pytest.raises(ValueError, match="--prompt 'lift' for a policy that reads no words"):
        ObservationBuilder(bench_contract(), objects=FixedObjects(CUBE), words=Words(prompt="lift"))
