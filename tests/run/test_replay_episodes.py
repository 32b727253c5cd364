"""Which episodes of a ring are shown, and the file that they are shown from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.data.replay import ReplayBuffer
from mjx_serl.run import replay_episodes, replay_file
from mjx_serl.run.replay_episodes import RunEpisodes, find_episodes, newest_episodes
from mjx_serl.run.replay_file import FILE, OWN, Q, Replay, Shown, read_replay, write_replay
from mjx_serl.training.trainer import Ring
from mjx_serl.types import Transition
from scenes.contract.demonstrations import DemoContract, stack_episodes, write_demonstrations

SIZE = 6  # of the pictures [px]


def rows(length: int, *, ends: dict[tuple[int, int], str], worlds: int = 2) -> Transition:
    """Rows [T, N] whose pictures show 10 * t + world; of those that end "idle" begins the next."""
    t, n = np.mgrid[:length, :worlds]
    ended = {kind: np.zeros((length, worlds), bool) for kind in ("done", "cut", "idle")}
    for where, kind in ends.items():
        ended[kind][where] = True
    picture = np.broadcast_to((10 * t + n)[..., None, None, None], (length, worlds, SIZE, SIZE, 3))
    return Transition(
        obs={"front": jnp.asarray(picture, jnp.uint8), "state": jnp.asarray(t[..., None], float)},
        action=jnp.asarray(np.stack([t, n], -1) / 100, jnp.float32),
        reward=jnp.asarray(ended["done"], jnp.float32),
        terminated=jnp.asarray(ended["done"]),
        truncated=jnp.asarray(ended["cut"]),
        valid=jnp.asarray(~ended["idle"]),
        expert=jnp.zeros((length, worlds), bool),
    )


def filled(steps: Transition, *, capacity: int, stack: int = 1) -> Any:
    buffer = ReplayBuffer(capacity, 2, stack, ("front",) if stack > 1 else ())
    return jax.jit(buffer.add)(buffer.init(jax.tree.map(lambda x: x[0, 0], steps)), steps)


def watched(ring: Any, *, stack: int = 1, horizon: int = 1, name: str = "online") -> Any:
    """A run whose critic says the first entry of a choice, plus what the oldest picture shows."""

    def q(obs: dict, action: jax.Array) -> jax.Array:
        assert obs["front"].shape[-1] == 3 * stack and action.shape[-1] == 2 * horizon
        return 100 * action[:, -2] + obs["front"][:, 0, 0, 0]

    trainer = SimpleNamespace(
        rings=lambda state: [Ring(name, ring, q)], horizon=horizon, env_steps_per_epoch=8
    )
    spec = SimpleNamespace(names=("x", "y"), rate=10.0)
    return SimpleNamespace(
        trainer=trainer,
        observer=SimpleNamespace(stack=stack, stacked=("front",) if stack > 1 else ()),
        env=SimpleNamespace(action_spec=spec),
        progress=SimpleNamespace(epoch=3),
    )


def test_only_whole_episodes_are_found_the_newest_first() -> None:
    ends = {(2, 0): "done", (3, 1): "cut", (5, 0): "cut", (3, 0): "idle"}
    ring = filled(rows(8, ends=ends), capacity=10)
    found = [[divmod(int(i), 2) for i in episode] for episode in find_episodes(ring)]
    assert found == [
        [(4, 0), (5, 0)],  # its first row was not to be learned from
        [(t, 1) for t in range(4)],
        [(t, 0) for t in range(3)],
    ]
    # Of the two that ended in world 0 the ring has lost the first one's start.
    buffer = ReplayBuffer(10, 2)
    ring = buffer.add(ring, rows(4, ends={}))
    assert [len(episode) for episode in find_episodes(ring)] == [2]
    ring = buffer.forget(filled(rows(8, ends=ends), capacity=10), 8)
    assert find_episodes(ring) == [], "nothing that was taken back"


def test_an_episode_is_shown_as_it_was_acted_on() -> None:
    ring = filled(rows(8, ends={(5, 1): "done"}), capacity=8, stack=3)
    replay = newest_episodes(watched(ring, stack=3, horizon=2), None)
    assert replay.episodes == (Shown("online", 0, 6),) and replay.solved(replay.episodes[0])
    assert replay.env_steps == 24 and replay.cameras == ("front",)
    np.testing.assert_array_equal(replay.arrays["obs/front"][:, 0, 0, 0], 10 * np.arange(6) + 1)
    # The critic saw two pictures back, to the start, and the next row's action, to the end.
    later, oldest = np.minimum(np.arange(6) + 1, 5), np.maximum(np.arange(6) - 2, 0)
    np.testing.assert_allclose(replay.arrays[Q], later + 10 * oldest + 1, rtol=1e-5)


def test_pictures_have_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = filled(rows(9, ends={(2, 0): "cut", (5, 0): "cut", (8, 0): "cut"}), capacity=10)
    each = 3 * SIZE * SIZE * 3
    for budget, episodes, size in (
        (3 * each, 3, SIZE),
        (2 * each, 2, SIZE),
        (each / 4, 1, SIZE / 2),
    ):
        monkeypatch.setattr(replay_episodes, "PICTURES", budget)
        replay = newest_episodes(watched(ring), None)
        assert len(replay.episodes) == episodes
        assert replay.arrays["obs/front"].shape[1:] == (size, size, 3)


def some(**changes: Any) -> Replay:
    """Two episodes of three steps."""
    flags = {name: np.zeros(6, bool) for name in ("terminated", "truncated", "valid", "expert")}
    arrays = {"action": np.zeros((6, 2), np.float32), "reward": np.zeros(6, np.float32), **flags}
    arrays |= {"obs/front": np.zeros((6, 4, 4, 3), np.uint8)} | changes
    return Replay(("x", "y"), 10.0, (Shown("a", 0, 3), Shown("b", 3, 3)), arrays, 40)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    wrote = some(q=np.full(6, np.nan, np.float32), policy_action=np.ones((6, 2), np.float32))
    write_replay(tmp_path / FILE, wrote)
    read = read_replay(tmp_path / FILE)
    assert (read.episodes, read.action_names, read.env_steps) == (wrote.episodes, ("x", "y"), 40)
    assert read.arrays.keys() == wrote.arrays.keys() and read.arrays[OWN].min() == 1


def test_demonstrations_are_read_as_episodes(tmp_path: Path) -> None:
    fields = (("front", (4, 4, 3), "uint8"), ("state", (2,), "float32"))
    contract = DemoContract(
        task="t", obs=fields, action_names=("x", "y"), action_scale=(1.0, 1.0), rate=20.0, base="b"
    )
    steps = {name: x[:3] for name, x in some().arrays.items()}
    steps |= {"obs/state": np.zeros((3, 2), np.float32), "reward": np.float32([0, 0, 1])}
    ended = steps | {"terminated": np.array([False, False, True])}
    ended.pop("valid")
    write_demonstrations(tmp_path / "mine.npz", stack_episodes([ended, ended]), contract)
    read = read_replay(tmp_path / "mine.npz")
    assert read.episodes == (Shown("mine.npz", 0, 3), Shown("mine.npz", 3, 3))
    assert read.cameras == ("front",) and read.rate == 20.0
    assert all(map(read.solved, read.episodes))


def damaged(path: Path) -> None:
    write_replay(path, some())
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda path: path.write_bytes(b"no archive"), "not a zip"),
        (damaged, "Bad CRC"),
        (lambda path: np.savez(path, a=np.zeros(3)), "'contract' is missing"),
        (lambda path: np.savez(path, about=np.array("{}")), "episodes"),
        (lambda path: np.savez(path, about=np.array({"a": 1}, object)), "allow_pickle"),
        (lambda path: write_replay(path, some(reward=np.zeros(4, np.float32))), "'reward' is"),
        (lambda path: write_replay(path, some(q=np.zeros((6, 2), np.float32))), "'q' is"),
        (lambda path: np.savez_compressed(path, about=np.zeros(3 << 20, np.uint8)), "holds 3 MiB"),
    ],
)
def test_any_other_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, why: str
) -> None:
    monkeypatch.setattr(replay_file, "MAX_BYTES", 2 << 20)
    write(tmp_path / FILE)
    with pytest.raises(ValueError, match=rf"^{FILE} cannot be shown: .*{why}"):
        read_replay(tmp_path / FILE)


def test_training_outlives_what_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = watched(filled(rows(4, ends={(2, 0): "cut"}), capacity=8))
    run.folder = SimpleNamespace(path=tmp_path / "gone")
    RunEpisodes().after_save(run, None)
    assert f"{FILE} was not written" in capsys.readouterr().err
