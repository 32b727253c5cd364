"""Checkpoints: exact, verified, atomic under kill -9, harmless on a full disk."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.run import checkpoint
from mjx_serl.run.checkpoint import CheckpointStore


def make_state(seed=0, size=500):
    rng = np.random.default_rng(seed)
    return {
        "params": {"w": jnp.asarray(rng.normal(size=(size, 8)), jnp.float32), "none": None},
        "image": jnp.asarray(rng.integers(0, 255, (5, 8, 8, 3)), jnp.uint8),
        "bits": jnp.asarray(rng.integers(0, 2**32, (7,)), jnp.uint32),
        "valid": jnp.asarray([True, False, True]),
        "count": jnp.asarray(3, jnp.int32),
        "half": jnp.asarray([1.5, 2.0], jnp.bfloat16),
        "empty": jnp.zeros((0, 4), jnp.float32),
        "a/b": (jnp.float32(1e-30) * jnp.ones(2),),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
    }


def host(state):
    def plain(x):
        return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(lambda x: np.asarray(plain(x)), state)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
    for x, y in zip(jax.tree.leaves(host(a)), jax.tree.leaves(host(b)), strict=True):
        np.testing.assert_array_equal(x, y)


def saved(folder, *steps, size=500):
    store = CheckpointStore(folder, keep=len(steps))
    for step in steps:
        store.save(step, make_state(step, size), {"epoch": step})
    store.wait()
    return store


@pytest.mark.parametrize("abstract", [False, True])
def test_restores_every_dtype_exactly(tmp_path, abstract):
    saved(tmp_path / "c", 7)
    template = make_state(99)
    if abstract:
        template = jax.eval_shape(lambda: template)
    state, step, meta = CheckpointStore(tmp_path / "c").restore(template)
    assert (step, meta) == (7, {"epoch": 7})
    assert_same(state, make_state(7))
    draw = jax.random.normal(state["keys"][1], (3,))
    np.testing.assert_array_equal(draw, jax.random.normal(make_state(7)["keys"][1], (3,)))


def test_defect_19_keeps_the_newest_and_sweeps_leftovers(tmp_path):
    (tmp_path / ".tmp-3-1" / "arrays").mkdir(parents=True)
    (tmp_path / ".tmp-3-1" / "arrays" / "x").write_text("half")
    store = CheckpointStore(tmp_path, keep=2)
    assert store.steps() == []
    for step in (1, 2, 3):
        store.save(step, make_state(step), {})
    store.wait()
    assert store.steps() == [2, 3] and store.last_saved == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000000002", "0000000003"]
    # A run that went back comes to the same step again (serl#66 crashed): an intact one stays.
    store.save(3, make_state(3), {})
    store.wait()
    state, step, _ = CheckpointStore(tmp_path).restore(make_state(0))
    assert step == 3
    assert_same(state, make_state(3))


def test_reader_leaves_a_live_write_alone(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / ".tmp-2-1").mkdir()
    CheckpointStore(tmp_path).restore(make_state())
    assert (tmp_path / ".tmp-2-1").exists()


def test_donation_after_save_does_not_change_what_is_saved(tmp_path):
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = {"x": jnp.zeros((3_000_000,)), "n": jnp.zeros((), jnp.int32)}
    copies, _ = checkpoint._to_host(state)
    views = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    assert not any(np.shares_memory(*pair) for pair in zip(copies, views, strict=True))
    del views
    store = CheckpointStore(tmp_path)
    store.save(1, state, {})
    for _ in range(3):
        state = bump(state)
    jax.block_until_ready(state)
    back, _, _ = store.restore(state)
    assert float(jnp.abs(back["x"]).max()) == 0.0 and int(back["n"]) == 0


@pytest.mark.parametrize("commit", [False, True])
@pytest.mark.parametrize("abstract", [False, True])
def test_restored_state_does_not_retrace_or_warn(tmp_path, commit, abstract):
    traces = []

    def epoch(state):
        traces.append(1)
        key, sub = jax.random.split(state["key"])
        return {"key": key, "x": state["x"] + jax.random.normal(sub, state["x"].shape)}

    epoch = jax.jit(epoch, donate_argnums=0)
    device = jax.devices()[0] if commit else None

    def init():
        return jax.device_put({"key": jax.random.key(0), "x": jnp.zeros((64, 32))}, device)

    template = jax.eval_shape(init) if abstract and not commit else init()
    state, store = epoch(epoch(init())), CheckpointStore(tmp_path)
    compiled = epoch._cache_size()
    store.save(2, state, {})
    straight = epoch(epoch(state))
    state, _, _ = store.restore(template)
    assert_same(epoch(epoch(state)), straight)
    assert len(traces) == 1 and epoch._cache_size() == compiled


def data_files(folder):
    return [p for p in sorted(folder.rglob("*")) if p.is_file()]


def test_every_flipped_bit_is_detected(tmp_path):
    saved(tmp_path, 1, size=50)
    folder, rng = tmp_path / "0000000001", random.Random(0)
    assert checkpoint._find_damage(folder) is None
    for path in data_files(folder):
        good = path.read_bytes()
        places = {0, len(good) - 1} | {rng.randrange(len(good)) for _ in range(8)}
        for place, bit in ((place, rng.randrange(8)) for place in places):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            path.write_bytes(bad)
            assert checkpoint._find_damage(folder), f"{path} byte {place} bit {bit}"
        path.write_bytes(good)
    assert checkpoint._find_damage(folder) is None


def damage_flip(folder):
    path = max(data_files(folder / "arrays"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def damage_truncate(folder):
    path = max(data_files(folder / "arrays"), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:-10])


def damage_remove(folder):
    (folder / "state.json").unlink()


def damage_manifest(folder):
    (folder / "MANIFEST.sha256").write_bytes(b"\xff\x00")


@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, damage_remove, damage_manifest])
def test_damaged_step_is_named_and_the_previous_one_used(tmp_path, damage):
    saved(tmp_path, 1, 2)
    damage(tmp_path / "0000000002")
    warnings = []
    store = CheckpointStore(tmp_path, warn=warnings.append)
    state, step, _ = store.restore(make_state())
    assert step == 1
    assert_same(state, make_state(1))
    assert len(warnings) == 1 and "\n" not in warnings[0]
    assert "step 2 is damaged" in warnings[0] and "using step 1" in warnings[0]
    store.save(2, make_state(2), {})  # the repeated step replaces the damaged one
    assert_same(store.restore(make_state())[0], make_state(2))
    assert store.steps() == [1, 2] and len(warnings) == 1


def test_no_intact_step(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        CheckpointStore(tmp_path / "none").restore(make_state())
    saved(tmp_path, 1)
    damage_flip(tmp_path / "0000000001")
    with pytest.raises(ValueError, match=r"No intact checkpoint.*step 1.*arrays"):
        CheckpointStore(tmp_path).restore(make_state())


def test_other_shapes_give_a_short_diff(tmp_path):
    saved(tmp_path, 1)
    template = make_state()
    template["params"]["w"] = jnp.zeros((500, 9))
    template["count"] = jnp.zeros((), jnp.uint32)
    template["extra"] = template.pop("valid")
    with pytest.raises(ValueError) as caught:
        CheckpointStore(tmp_path).restore(template)
    lines = str(caught.value).splitlines()
    assert "4 differences" in lines[0] and len(lines) == 6
    assert lines[-1].startswith("  Hint: where another version of mjx_serl wrote it")
    assert "  params/w: float32(500, 8) in the checkpoint, float32(500, 9) expected" in lines
    assert any("valid: only in the checkpoint" in line for line in lines)
    many = {str(i): jnp.zeros(2) for i in range(100)}
    with pytest.raises(ValueError) as caught:
        CheckpointStore(tmp_path).restore(many)
    assert len(str(caught.value).splitlines()) < 12


def test_full_disk_warns_once_and_recovers(tmp_path, monkeypatch):
    warnings = []
    store = CheckpointStore(tmp_path, keep=3, warn=warnings.append)
    for step in (1, 2, 3):
        store.save(step, make_state(step), {})
    store.wait()
    real = checkpoint._write_arrays

    def full(path, leaves):
        path.mkdir()
        (path / "part").write_bytes(b"x" * 1000)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_arrays", full)
    for step in (4, 5, 6, 7):
        store.save(step, make_state(step), {})
    store.wait()
    assert len(warnings) == 1 and "step 4 was not saved" in warnings[0]
    assert "No space left" in warnings[0] and "training goes on" in warnings[0]
    assert store.steps() == [3], "spares go, the last good one stays"
    assert not list(tmp_path.glob(".tmp*"))
    monkeypatch.setattr(checkpoint, "_write_arrays", real)
    for step in (8, 9):
        store.save(step, make_state(step), {})
    assert store.restore(make_state())[1] == 9
    assert "work again" in warnings[1] and len(warnings) == 2
    assert store.steps() == [9], "what did not fit is not tried again"


def test_no_room_is_found_before_writing(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: shutil_usage(free=1000))
    store = CheckpointStore(tmp_path, warn=warnings.append)
    store.save(1, make_state(), {})
    store.wait()
    assert store.steps() == [] and "MB needed" in warnings[0]


def shutil_usage(free):
    return type("Usage", (), {"free": free})()


# One process imports everything (no backend yet, so forking is safe). Its children are one whose
# files may not grow large, what it says in a file, and then the five victims of kill -9.
PARENT = """
    import json, os, random, resource, sys, time
    from pathlib import Path
    import mjx_serl.run.hooks, mjx_serl.run.checkpoint, mjx_serl.run.console
    from mjx_serl.run.folder import RunFolder
    mjx_serl.run.hooks.CurveHook(RunFolder(Path(".")))
    heavy = ("orbax.checkpoint", "matplotlib", "tensorboardX", "torch", "mujoco")
    print(json.dumps([name for name in heavy if name in sys.modules]), flush=True)

    import jax.numpy as jnp
    import orbax.checkpoint
    from mjx_serl.run.checkpoint import CheckpointStore

    LIMITED, KILLED = map(Path, sys.argv[1:])

    def limited():
        for number, name in ((1, "out.txt"), (2, "err.txt")):
            os.dup2(os.open(LIMITED.with_name(name), os.O_WRONLY | os.O_CREAT), number)
        store = CheckpointStore(LIMITED)
        store.save(1, {"x": jnp.ones(1000)}, {})
        store.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        for step in (2, 3):
            store.save(step, {"x": jnp.arange(1_000_000.0)}, {})
            store.wait()
        print(store.steps(), [p.name for p in LIMITED.iterdir()])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        store.save(4, {"x": jnp.arange(1_000_000.0)}, {})
        store.wait()
        print(store.steps(), flush=True)
        os._exit(0)

    def victim():
        store = CheckpointStore(KILLED)
        template = {"x": jnp.zeros(300_000), "n": jnp.int32(0)}
        try:
            state, step, meta = store.restore(template)
            assert int(state["n"]) == step == meta["n"], (step, meta)
            assert bool((state["x"] == step).all())
        except FileNotFoundError:
            step = 0
        print("from", step, flush=True)
        while True:
            step += 1
            state = {"x": jnp.full(300_000, step * 1.0), "n": jnp.int32(step)}
            store.save(step, state, {"n": step})
            store.wait()
            print("saved", step, flush=True)

    if os.fork() == 0:
        limited()
    assert os.wait()[1] == 0
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            victim()
        print("pid", pid, flush=True)
        os.waitpid(pid, 0)
"""


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The process above; its checkpoints lie in the folders `limited` and `killed` of `args`."""
    folder = tmp_path_factory.mktemp("processes")
    args = [str(folder / name) for name in ("limited", "killed")]
    command = [sys.executable, "-c", textwrap.dedent(PARENT), *args]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def heavy(parent: subprocess.Popen[str]) -> list[str]:
    """Large packages that had been imported with the room."""
    assert parent.stdout is not None and parent.stderr is not None
    line = parent.stdout.readline()
    return json.loads(line or parent.stderr.read())


def test_importing_the_room_loads_no_heavy_package(heavy: list[str]):
    assert heavy == []


@pytest.fixture(scope="module")
def confirmed(parent: subprocess.Popen[str], heavy: list[str]) -> int:
    """Kill five children while they save; the newest step that one has said to be saved."""
    rng, confirmed, kills, fresh = random.Random(5), 0, 0, False
    assert parent.stdout is not None
    pid = 0
    for line in parent.stdout:
        word, number = line.split()
        if word == "pid":
            pid, fresh = int(number), True
        elif word == "from":
            assert int(number) >= confirmed
        else:
            confirmed = int(number)
            if fresh:
                time.sleep(rng.uniform(0.0, 0.15))
                os.kill(pid, signal.SIGKILL)
                kills, fresh = kills + 1, False
    _, err = parent.communicate(timeout=30)
    assert parent.returncode == 0 and kills == 5, err
    return confirmed


def test_kill_9_during_saves_always_leaves_a_whole_step(
    parent: subprocess.Popen[str], confirmed: int
):
    template = {"x": jnp.zeros(300_000), "n": jnp.int32(0)}
    state, step, _ = CheckpointStore(Path(parent.args[-1])).restore(template)
    assert step >= confirmed >= 5 and (np.asarray(state["x"]) == step).all()


@pytest.mark.usefixtures("confirmed")
def test_real_write_errors_do_not_escape(parent: subprocess.Popen[str]):
    limited = Path(parent.args[-2])
    out, err = (limited.with_name(name).read_text() for name in ("out.txt", "err.txt"))
    assert out.splitlines()[0] == "[1] ['0000000001']", out + err
    assert out.splitlines()[1] == "[1, 4]"
    lines = err.splitlines()
    assert len(lines) == 2, "one line per event, no traceback of orbax"
    assert "step 2 was not saved" in lines[0] and "too large" in lines[0] and len(lines[0]) < 300
    assert "work again: step 4" in lines[1]


def test_save_blocks_only_for_the_copy(tmp_path):
    state = {"x": jnp.ones((5, 1_000_000)), "key": jax.random.key(0)}  # 20 MB
    store = CheckpointStore(tmp_path)
    store.save(1, state, {})
    store.wait()
    start_time = time.monotonic()
    store.save(2, state, {})
    blocked = time.monotonic() - start_time
    store.wait()
    assert blocked < 0.3
    assert store.steps() == [1, 2]


def test_errors_of_the_caller_are_raised(tmp_path):
    store = CheckpointStore(tmp_path)
    with pytest.raises(TypeError, match="leaf 'n' is a int"):
        store.save(1, {"n": 3}, {})
    with pytest.raises(TypeError, match="JSON"):
        store.save(1, {"n": jnp.zeros(1)}, {"x": object()})
    with pytest.raises(ValueError, match="keep"):
        CheckpointStore(tmp_path, keep=0)


def test_manifest_is_readable_by_sha256sum(tmp_path):
    saved(tmp_path, 1)
    folder = tmp_path / "0000000001"
    done = subprocess.run(["sha256sum", "-c", "--quiet", "MANIFEST.sha256"], cwd=folder)
    assert done.returncode == 0
    assert json.loads((folder / "state.json").read_text())["step"] == 1
    assert Path(folder / "arrays").is_dir()


def test_a_leaf_is_found_under_the_name_it_had_in_older_checkpoints(tmp_path):
    before = {"worlds": {"worlds": {"qpos": jnp.arange(3.0)}, "zeta": jnp.ones(2)}}
    store = CheckpointStore(tmp_path)
    store.save(1, before, {})
    store.wait()
    today = {"worlds": {"envs": {"qpos": jnp.zeros(3)}, "zeta": jnp.zeros(2)}}
    state, _, _ = store.restore(today)
    np.testing.assert_array_equal(state["worlds"]["envs"]["qpos"], np.arange(3.0))
    np.testing.assert_array_equal(state["worlds"]["zeta"], np.ones(2))
