"""A classifier of success on the arm says what it says in training."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from mjx_serl.export.bundle import reward_file
from mjx_serl.nets.classifier import ClassifierSpec, RewardClassifier, SuccessNet
from mjx_serl.nets.encoders import EncoderConfig
from robot_bridge.learning.reward import PictureJudge
from scenes.contract.errors import InputError
from scenes.contract.specs import ObsField, ObsSpec

SIZE = 32
TICK: Any = None
FIELDS = [ObsField(name=n, shape=(SIZE, SIZE, 3), dtype="uint8") for n in ("front", "wrist")]


def drawn_classifier(kind: Any, names: tuple[str, ...]) -> RewardClassifier:
    spec = ClassifierSpec(
        task="a/b",
        kind=kind,
        names=names,
        cameras=("front", "wrist"),
        size=SIZE,
        encoder=EncoderConfig(),
        frozen=None,
        hidden=16,
        thresholds=(0.5,) * (len(names) - 1 if kind == "stages" else 1),
    )
    net = SuccessNet(spec)
    return RewardClassifier(spec, net.init(jax.random.key(0), net.blank()))


def pictures(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f.name: rng.integers(0, 256, f.shape, np.uint8) for f in FIELDS}


@pytest.mark.parametrize(
    ("kind", "names"),
    [("binary", ("none", "success")), ("stages", ("none", "grasped", "success"))],
)
def test_it_judges_as_in_training(kind: str, names: tuple[str, ...]) -> None:
    classifier = drawn_classifier(kind, names)
    shown = [pictures(seed) for seed in range(6)]
    said = [float(classifier({n: x[None] for n, x in p.items()})[0, -1]) for p in shown]
    # A threshold between them, so that both verdicts come.
    classifier = classifier.with_threshold(float(np.median(said)))
    observer: Any = SimpleNamespace(judge=SimpleNamespace(classifier=classifier))
    judge = PictureJudge(reward_file(observer)["reward.onnx"], ObsSpec(fields=tuple(FIELDS)))
    verdicts = []
    for picture in shown:
        judge.put(TICK, picture)
        verdicts.append(judge() == "success")
        assert judge() is None  # each is judged once
    assert verdicts == [p >= classifier.thresholds[-1] for p in said]
    assert 0 < sum(verdicts) < len(shown)
    judge.put(TICK, shown[int(np.argmax(said))])
    judge.event("begin")
    assert judge() is None  # what was seen before an episode is not of it


def test_a_classifier_of_what_is_not_observed_is_refused() -> None:
    observer: Any = SimpleNamespace(
        judge=SimpleNamespace(classifier=drawn_classifier("binary", ("none", "success")))
    )
    with pytest.raises(InputError, match="reads wrist, not observed"):
        PictureJudge(reward_file(observer)["reward.onnx"], ObsSpec(fields=tuple(FIELDS[:1])))
