"""Classifiers of success: what their outputs mean, and what a file of one must say."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.nets.classifier import (
    ClassifierSpec,
    RewardClassifier,
    SuccessNet,
    load_classifier,
    probabilities,
    save_classifier,
)
from mjx_serl.nets.encoders import EncoderConfig
from mjx_serl.nets.frozen import ReaderSpec

ENCODER = EncoderConfig(name="small", features=4)
SPEC = ClassifierSpec(
    task="toy/task",
    kind="binary",
    names=("none", "success"),
    cameras=("front", "wrist"),
    size=32,
    encoder=ENCODER,
    frozen=None,
    hidden=8,
    thresholds=(0.75,),
)
STAGES = dataclasses.replace(SPEC, kind="stages", names=("none", "held", "lifted"))
N_WAY = dataclasses.replace(STAGES, kind="n_way")
READER = ReaderSpec(
    cameras=SPEC.cameras, size=32, encoder=ENCODER, hidden=4, targets=(("cube", 3, 0.2),)
)


@pytest.fixture(scope="module")
def classifier() -> RewardClassifier:
    net = SuccessNet(SPEC)
    return RewardClassifier(SPEC, jax.jit(net.init)(jax.random.key(0), net.blank()))


def pictures(count: int = 3) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {c: draw.integers(0, 256, (count, 32, 32, 3), np.uint8) for c in SPEC.cameras}


def test_outputs_of_each_kind():
    """Logits ln 3, -ln 3 are 3/4 and 1/4 each by itself; as classes with 0 they are 9, 1 and 3."""
    logits = jnp.log(jnp.array([[3.0, 1 / 3, 1.0]]))
    np.testing.assert_allclose(probabilities(STAGES, logits[:, :2]), [[0.75, 0.25]], rtol=1e-6)
    np.testing.assert_allclose(probabilities(N_WAY, logits), [[3 / 13]], rtol=1e-6)
    assert [s.outputs for s in (SPEC, STAGES, N_WAY)] == [1, 2, 3]
    assert [s.stages for s in (SPEC, STAGES, N_WAY)] == [
        ("success",),
        ("held", "lifted"),
        ("lifted",),
    ]


def test_a_class_has_reached_its_stage_and_those_before():
    label = jnp.array([0, 1, 2])
    np.testing.assert_array_equal(STAGES.reached(label), [[0, 0], [1, 0], [1, 1]])
    np.testing.assert_array_equal(N_WAY.reached(label), [[0], [0], [1]])
    np.testing.assert_array_equal(SPEC.reached(label[:2]), [[0], [1]])


def test_a_file_holds_the_classifier_and_its_digest(classifier: RewardClassifier, tmp_path: Path):
    save_classifier(tmp_path / "c.npz", classifier, note={"seed": 3})
    loaded, note = load_classifier(tmp_path / "c.npz")
    assert (loaded.spec, note) == (SPEC, {"seed": 3})
    np.testing.assert_array_equal(loaded(pictures()), classifier(pictures()))
    assert loaded.digest == classifier.digest
    other = classifier.with_threshold(0.9)
    assert other.thresholds == (0.9,) and other.digest != classifier.digest
    assert classifier.with_threshold(None) is classifier


def test_a_frozen_reader_lies_inside_and_is_not_trained():
    spec = dataclasses.replace(SPEC, frozen=READER)
    net = SuccessNet(spec)

    @jax.jit
    def grads(key: jax.Array):
        params = net.init(key, net.blank())
        return jax.grad(lambda p: jnp.sum(net.apply(p, pictures(2))))(params)["params"]

    found = grads(jax.random.key(0))
    assert not any(np.any(x) for x in jax.tree.leaves(found["reader"]))
    assert all(np.any(x) for x in jax.tree.leaves(found["head"]["Dense_1"]))


def test_another_task_camera_or_size_is_refused(classifier: RewardClassifier):
    classifier.check("toy/task", ("wrist", "front", "side"), 32)
    with pytest.raises(ValueError, match="tells success of 'toy/task', got task 'toy/other'"):
        classifier.check("toy/other", ("front", "wrist"), 32)
    for cameras, size in ((("front",), 32), (("front", "wrist"), 64), ((), 32)):
        with pytest.raises(ValueError, match="reads cameras front wrist at 32 px"):
            classifier.check("toy/task", cameras, size)


def test_what_is_no_classifier_is_refused(classifier: RewardClassifier, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"mjx_serl.classifier train .* makes one"):
        load_classifier(tmp_path / "none.npz")
    path = tmp_path / "c.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is no classifier"):
        load_classifier(path)
    save_classifier(path, classifier, note={})
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays["meta"]))
    for wrong in ({"kind": "guess"}, {"thresholds": [0.5, 0.5]}):
        changed = {"spec": meta["spec"] | wrong, "note": {}}
        np.savez(path, **(arrays | {"meta": np.array(json.dumps(changed))}))
        with pytest.raises(ValueError, match="is no classifier"):
            load_classifier(path)
    np.savez(
        path,
        **(arrays | {"meta": np.array(json.dumps(meta | {"spec": meta["spec"] | {"hidden": 9}}))}),
    )
    with pytest.raises(ValueError, match="does not hold the finite weights"):
        load_classifier(path)
