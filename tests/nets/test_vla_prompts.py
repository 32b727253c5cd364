"""Prompts in openpi's formats, and its statistics of states and actions."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.nets.vla.config import SIZES
from mjx_serl.nets.vla.normalization import (
    FILE,
    NormStats,
    load_norm_stats,
    measure,
    normalize,
    save_norm_stats,
    unnormalize,
)
from mjx_serl.nets.vla.prompts import prompt_tokens
from scenes.contract.errors import InputError
from scenes.contract.language import BYTES

PI05 = dataclasses.replace(SIZES["tiny"], prompt=64)
PI0 = dataclasses.replace(PI05, pi05=False)


def said(config: Any, text: str, **more: Any) -> tuple[str, int]:
    """What the bytes of a prompt spell, and how many numbers come behind them."""
    ids, mask = prompt_tokens(config, BYTES.build(), text, **more)
    assert ids.shape == mask.shape == (64,) and not ids[~mask].any()
    spelt = ids[mask][ids[mask] >= 3]
    return bytes(int(number) - 3 for number in spelt).decode(), int(mask.sum()) - len(spelt)


def test_prompts_are_openpis() -> None:
    assert said(PI0, " pick_up\nthe cube ") == ("pick up the cube", 1)
    state = np.array([-1.0, -1.01, -0.999, 0.0, 0.9999, 1.0, 3.0])
    want = "Task: pick up, State: 0 -1 0 128 255 255 255;\nAction: "
    assert said(PI05, "pick_up", state=state) == (want, 0)


@pytest.mark.parametrize(
    ("config", "text", "more", "message"),
    [
        (PI05, "x" * 40, {"state": np.zeros(4)}, "takes 80 numbers, allowed: 64"),
        (PI0, "go", {"state": np.zeros(2)}, "pi0 reads the state itself"),
        (dataclasses.replace(PI0, vocabulary=200), "go", {}, "259 words, the policy knows 200"),
    ],
)
def test_prompts_that_do_not_fit(config: Any, text: str, more: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prompt_tokens(config, BYTES.build(), text, **more)


STATS = NormStats(*(np.array(x) for x in ([1.0, 2.0], [2.0, 0.0], [0.0, 2.0], [4.0, 2.0])))


@pytest.mark.parametrize("arrays", [np.array, jnp.array])
def test_states_and_actions_are_normalised_as_by_openpi(arrays: Any) -> None:
    x = arrays([[5.0, 2.0]])
    low, high = normalize(x, STATS, quantile=False), normalize(x, STATS, quantile=True)
    np.testing.assert_allclose(low, [[4.0 / (2.0 + 1e-6), 0.0]], rtol=1e-6)
    np.testing.assert_allclose(high, [[5.0 / (4.0 + 1e-6) * 2.0 - 1.0, -1.0]], rtol=1e-6)
    # Of less than the statistics know, and of more: what a policy pads.
    np.testing.assert_allclose(normalize(x[:, :1], STATS, quantile=True), high[:, :1])
    for quantile, y in ((False, low), (True, high)):
        padded = arrays(np.concatenate([y, [[0.5]]], axis=-1))
        np.testing.assert_allclose(
            unnormalize(padded, STATS, quantile=quantile), [[5.0, 2.0, 0.5]], rtol=1e-5
        )
    with pytest.raises(InputError, match="Vectors of 3 numbers, statistics of 2"):
        normalize(padded, STATS, quantile=True)


def test_statistics_are_measured_written_and_read(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal([1.0, -2.0], [0.5, 3.0], (5000, 2))
    stats = measure(rows)
    _, q99 = stats.quantiles()
    np.testing.assert_allclose(q99 - stats.mean, [0.5 * 2.326, 3.0 * 2.326], rtol=0.1)
    without = NormStats(stats.mean, stats.std)
    save_norm_stats(tmp_path / "assets" / "arm", {"state": stats, "actions": without})
    raw = json.loads((tmp_path / "assets" / "arm" / FILE).read_text())["norm_stats"]
    assert raw["state"].keys() == {"mean", "std", "q01", "q99"}
    read = load_norm_stats(tmp_path / "assets" / "arm")
    np.testing.assert_array_equal(read["state"].q01, stats.q01)
    with pytest.raises(InputError, match="have no quantiles"):
        normalize(rows, read["actions"], quantile=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No norm_stats.json"),
        ("{", "holds no statistics"),
        ('{"norm_stats": {"state": {"mean": [0]}}}', "state: wanted mean and std"),
        ('{"norm_stats": {"state": {"mean": [0], "std": [1, 2]}}}', "lists of one length"),
        ('{"norm_stats": {"state": {"mean": [NaN], "std": [1]}}}', "not all numbers are finite"),
    ],
)
def test_statistics_that_are_none(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=message):
        load_norm_stats(tmp_path)
