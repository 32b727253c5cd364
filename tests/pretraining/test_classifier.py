"""Frames for classifiers: every state drawn and labelled, whole episodes held out, a threshold."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_env import STEPS, ToyEnv, ToyState

from mjx_serl.data.frames import frames_of
from mjx_serl.envs.observation import Observer
from mjx_serl.nets.classifier import ClassifierSpec, load_classifier
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.pretraining import classifier_run as runs
from mjx_serl.pretraining.classifier import (
    WAYS,
    ClassifierConfig,
    Frames,
    choose_threshold,
    classifier_loss,
    classifier_spec,
    collect_frames,
    draw_balanced,
    join_frames,
    require_classes,
    split_frames,
)
from mjx_serl.types import Obs, Transition

SIZE, EPISODES = 32, 6
CONFIG = ClassifierConfig(
    episodes=EPISODES,
    updates=250,
    batch_size=32,
    lr=1e-3,
    crop=1,
    held_out=0.4,
    encoder=EncoderConfig(name="small", features=8),
    hidden=16,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Lamp:
    """A picture that is bright where the world is solved; its blue is the world's age."""

    config: Any = dataclasses.field(
        default_factory=lambda: SimpleNamespace(cameras=("front",), size=SIZE, stack=1, depth=0.0)
    )

    def observe(self, worlds: ToyState, look: tuple) -> Obs:
        red = jnp.where(worlds.success, 250, 5)
        color = jnp.stack([red, red, worlds.t], axis=-1).astype(jnp.uint8)
        return {"front": jnp.broadcast_to(color[:, None, None], (len(red), SIZE, SIZE, 3))}


@dataclasses.dataclass(frozen=True, eq=False)
class ToyObserver(Observer):
    traceable: bool = True  # pyright: ignore

    def looks(self, key: jax.Array, num: int) -> tuple:
        return ()


@pytest.fixture(scope="module")
def observer() -> ToyObserver:
    return ToyObserver(ToyEnv(), Lamp())


@pytest.fixture(scope="module")
def spec(observer: ToyObserver) -> ClassifierSpec:
    return classifier_spec(CONFIG, observer, None)


@pytest.fixture(scope="module")
def frames(spec: ClassifierSpec, observer: ToyObserver) -> Frames:
    key = jax.random.key(0)
    return join_frames(list(collect_frames(spec, observer, key, episodes=EPISODES)))


def test_the_state_that_an_episode_ends_in_is_drawn_and_labelled(frames: Frames):
    """Steps 0 to STEPS of each: ends at 2 to 13 or the time limit, success in the end's picture."""
    assert len(frames.label) == len(WAYS) * EPISODES * (STEPS + 1)
    np.testing.assert_array_equal(frames.pictures["front"][:, 0, 0, 0] > 100, frames.label)
    ages = frames.pictures["front"][:, 0, 0, 2]
    assert set(ages) == set(range(STEPS + 1)), "the time limit's too"
    # Every toy episode that ends in time is solved in one state, at its end or one step later.
    solved = np.bincount(frames.episode, weights=frames.label)
    assert set(solved) == {0, 1}
    assert 0.2 < solved.mean() < 0.8


def test_whole_episodes_are_held_out_of_every_way_to_act(frames: Frames):
    learn, choose, tests = split_frames(frames, 0.4)
    episodes = [set(part.episode) for part in (learn, choose, tests)]
    assert sum(map(len, episodes)) == len(set.union(*episodes)) == len(WAYS) * EPISODES
    assert [len(part) for part in episodes] == [18, 6, 6]
    for part in episodes:
        assert {episode // EPISODES for episode in part} == set(range(len(WAYS)))
    assert sum(len(part.label) for part in (learn, choose, tests)) == len(frames.label)


def test_files_number_their_episodes_apart():
    def part(*episodes: int) -> Frames:
        number = np.array(episodes)
        return Frames({"front": np.zeros((len(number), 1))}, number * 0, number)

    np.testing.assert_array_equal(join_frames([part(0, 0, 1), part(0, 2)]).episode, [0, 0, 1, 2, 4])


def test_every_class_is_drawn_as_often():
    label = jnp.array([0] * 90 + [2] * 8 + [1] * 2)
    drawn = draw_balanced(jax.random.key(0), label, (3000,), 3)
    shares = np.bincount(label[drawn]) / 3000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
    assert len(np.unique(drawn)) == 100


@pytest.mark.parametrize(
    ("false_positives", "threshold"), [(0.0, 0.9), (0.25, 0.8), (0.5, 0.6), (0.75, 0.5)]
)
def test_the_threshold_is_the_least_that_few_enough_pass_by_mistake(
    false_positives: float, threshold: float
):
    """Wrong ones have 0.9, 0.8, 0.6 and 0.2."""
    probability = np.array([0.2, 0.95, 0.9, 0.8, 0.7, 0.6], np.float32)
    reached = np.array([False, True, False, False, True, False])
    found = choose_threshold(probability, reached, false_positives=false_positives)
    np.testing.assert_allclose(found, threshold, rtol=1e-6)
    assert np.mean(probability[~reached] >= found) <= false_positives


def test_a_threshold_lets_something_pass():
    certain = np.ones(3, np.float32)
    assert choose_threshold(certain, np.zeros(3, bool), false_positives=0.0) == 0.999
    assert choose_threshold(certain, np.ones(3, bool), false_positives=0.0) == 0.5


def test_the_loss_is_the_cross_entropy_of_classes_or_of_each_stage(spec: ClassifierSpec):
    """Logits ln 3, 0 of class 1 of 3: stages -ln 3/4 and -ln 1/2; classes with 0: -ln 1/5."""
    stages = dataclasses.replace(spec, kind="stages", names=("none", "held", "lifted"))
    logits, label = jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([1])
    loss = classifier_loss(stages, logits, label)
    np.testing.assert_allclose(loss, 0.5 * (np.log(4 / 3) + np.log(2)), rtol=1e-6)
    n_way = dataclasses.replace(stages, kind="n_way")
    logits = jnp.append(logits, jnp.zeros((1, 1)), axis=1)
    np.testing.assert_allclose(classifier_loss(n_way, logits, label), np.log(5), rtol=1e-6)


def test_one_is_trained_measured_saved_and_tested_again(
    observer: ToyObserver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(runs, "make_env", lambda task, max_worlds: observer.env)
    pixels: Any = SimpleNamespace(build=lambda env: observer)
    cfg = runs.TrainClassifier(out=tmp_path / "c.npz", task="toy", pixels=pixels, train=CONFIG)
    trained, (found,) = runs.train(cfg)
    assert (found.correct, found.recognised, found.mistaken) == (1.0, 1.0, 0.0)
    loaded, note = load_classifier(cfg.out)
    assert loaded.digest == trained.digest and 0.5 <= loaded.thresholds[0] < 1.0
    assert note["held_out"] == [dataclasses.asdict(found)]
    said = capsys.readouterr().out
    assert "none " in said and "250 updates, loss" in said
    assert f"held-out episodes: {found}" in said
    with pytest.raises(FileExistsError, match="give another name"):
        runs.train(cfg)
    monkeypatch.setattr(runs, "PixelConfig", lambda **fields: pixels)
    (again,) = runs.test(runs.TestClassifier(file=cfg.out, episodes=EPISODES))
    assert again.frames == len(WAYS) * EPISODES * (STEPS + 1) and again.correct > 0.99
    nothing = dataclasses.replace(cfg, out=tmp_path / "d.npz", simulate=False)
    with pytest.raises(ValueError, match="there is nothing to learn"):
        runs.train(nothing)


def test_what_cannot_be_learned_is_refused(
    spec: ClassifierSpec, frames: Frames, observer: ToyObserver
):
    none = jax.tree.map(lambda x: x[frames.label == 0], frames)
    with pytest.raises(ValueError, match=r"no frame of 'success' among the \d+ frames to test on"):
        require_classes(spec, none, "frames to test on")
    with pytest.raises(ValueError, match="a classifier needs cameras"):
        classifier_spec(CONFIG, Observer(ToyEnv()), None)
    with pytest.raises(ValueError, match="kind stages with 'toy', which has no stages"):
        classifier_spec(dataclasses.replace(CONFIG, kind="stages"), observer, None)


def test_of_a_demonstration_only_what_is_sure_is_labelled():
    """Six steps, solved; four, then padding, not: of the first the last is success."""
    valid = np.ones((6, 2), bool)
    valid[4:, 1] = False
    reward = np.zeros((6, 2), np.float32)
    reward[5, 0] = 1.0
    number = np.arange(12).reshape(6, 2)
    no = np.zeros((6, 2), bool)
    rows: Any = Transition({"front": number}, number, reward, no, no, valid, no)
    pictures, label, episode = frames_of(rows, cameras=("front",), success=2, near=3)
    np.testing.assert_array_equal(pictures["front"], [0, 1, 2, 3, 5, 7, 10])
    np.testing.assert_array_equal(label, [0, 0, 0, 0, 0, 0, 2])
    np.testing.assert_array_equal(episode, [0, 1, 0, 1, 1, 1, 0])
