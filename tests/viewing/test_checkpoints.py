"""A run's checkpoints on the live page: another one plays without a restart or a compilation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mjx_serl.data.normalize import NormalizerState
from mjx_serl.run.checkpoint import CheckpointStore
from mjx_serl.training.state import PolicyParams
from mjx_serl.types import choice
from mjx_serl.viewing import checkpoints as viewer
from mjx_serl.viewing.checkpoints import CheckpointMenu, Checkpoints


def params(value: float) -> PolicyParams:
    return PolicyParams({"w": jnp.float32(value)}, NormalizerState(jnp.float32(0), {}, {}))


def save(store: CheckpointStore, epoch: int) -> None:
    """A policy that always does its epoch's number."""
    store.save(epoch, params(epoch), {})
    store.wait()


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run that has saved after epochs 2 and 4, of which the newer plays."""
    store = CheckpointStore(tmp_path, keep=9)
    for epoch in (2, 4):
        save(store, epoch)
    trainer = SimpleNamespace(
        horizon=1,
        choose=lambda params, obs, key, deterministic: choice(
            jnp.full((1, 2), params.agent["w"]) + 0 * obs["state"]
        ),
    )
    return SimpleNamespace(store=store, trainer=trainer, progress=SimpleNamespace(epoch=4))


def test_another_checkpoint_plays_and_nothing_is_compiled(run: Any) -> None:
    checkpoints, seen = Checkpoints(run, params(4)), {"state": jnp.zeros((1, 2))}
    act = jax.jit(lambda policy, key: policy(None, seen, key))
    assert checkpoints.epochs() == [4, 2]
    for epoch in (4, 2, 2, 4):
        assert checkpoints.swap(epoch) == "" and checkpoints.epoch == epoch
        assert act(checkpoints.policy, jax.random.key(0))[0, 0] == epoch
    assert act._cache_size() == 1


def test_what_cannot_be_read_does_not_play(run: Any, tmp_path: Path) -> None:
    checkpoints = Checkpoints(run, params(4))
    (tmp_path / f"{2:010d}" / "state.json").write_text("{}")
    assert "step 2 is damaged" in checkpoints.swap(2)
    assert checkpoints.epoch == 4 and checkpoints.epochs() == [4]
    assert "No checkpoint" in checkpoints.swap(3), "dropped since it was offered"


class FakeGui:
    """Stands in for viser's."""

    def add_dropdown(self, label: str, options: tuple, initial: str) -> SimpleNamespace:
        self.menu = SimpleNamespace(options=options, value=initial)
        return self.menu

    def add_checkbox(self, label: str, *, initial_value: bool) -> SimpleNamespace:
        self.follow = SimpleNamespace(value=initial_value)
        return self.follow

    def add_markdown(self, text: str) -> SimpleNamespace:
        self.note = SimpleNamespace(content=text)
        return self.note


def test_a_visitor_chooses_or_follows_the_newest(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(t=0.0)
    monkeypatch.setattr(viewer.time, "monotonic", lambda: now.t)
    gui, checkpoints = FakeGui(), Checkpoints(run, params(4))
    menu = CheckpointMenu(gui, checkpoints)
    assert (gui.menu.options, gui.menu.value) == (("epoch 4", "epoch 2"), "epoch 4")
    gui.menu.value = "epoch 2"
    assert menu.renew() is checkpoints.policy and checkpoints.epoch == 2
    save(run.store, 6)
    now.t = 5.0
    menu.renew()
    assert checkpoints.epoch == 2 and gui.menu.options[0] == "epoch 6"
    gui.follow.value, now.t = True, 10.0
    menu.renew()
    assert checkpoints.epoch == 6 and gui.menu.value == "epoch 6" and gui.note.content == ""
    gui.menu.value = "epoch 2"
    menu.renew()
    assert checkpoints.epoch == 2 and not gui.follow.value, "a choice ends the following"
