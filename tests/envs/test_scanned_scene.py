"""Pictures drawn from a user's scan and surfaces, and what a run remembers of them."""

import dataclasses
import hashlib
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.commands import open_run, parse_train
from mjx_serl.config import TrainConfig
from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.task import split_keys
from mjx_serl.run.folder import RunFolder
from scenes.contract.serialize import digest
from splat_render.assets.bake import bake, scene_splats
from splat_render.assets.robot_surfaces import load_surface, save_surface
from splat_render.assets.scan import save_scan
from splat_render.types import SH_C0

SMALL = PixelConfig(cameras=("front",), size=16, splats=300, backend="cpu")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory, sparse: Env) -> Path:
    """A scan of everything but the cube, all of it pure green."""
    model = sparse.scene.model
    splats = bake(model, budget=300, skip_bodies=("cube",))
    green = np.zeros(np.shape(splats.sh), np.float32)
    green[:, 0] = (np.array([0.0, 1.0, 0.0]) - 0.5) / SH_C0
    folder = tmp_path_factory.mktemp("scan")
    save_scan(folder, splats.replace(sh=jnp.asarray(green)), model)
    return folder


def picture(observer: Observer) -> np.ndarray:
    """What the front camera sees of a start, in [0, 1]."""
    worlds = jax.vmap(observer.env.reset)(split_keys(jax.random.key(0), 1))
    seen = observer.pictures(worlds, observer.looks(jax.random.key(1), 1))
    return np.asarray(seen["front"][0], np.float32) / 255


def test_the_scan_is_drawn_and_what_it_lacks_is_baked(sparse: Env, scan: Path) -> None:
    config = dataclasses.replace(SMALL, scan=scan)
    splats = config.splats_of(sparse.scene.model)
    cube = sparse.scene.model.body("cube").id
    assert np.sum(np.asarray(splats.body_id) == cube) > 0
    assert set(np.unique(splats.body_id)) == set(
        np.unique(scene_splats(sparse.scene.model, budget=300).body_id)
    )
    seen = picture(config.build(sparse))
    baked = picture(SMALL.build(sparse))
    greenness = [np.mean(rgb[..., 1] - rgb[..., [0, 2]].max(-1)) for rgb in (seen, baked)]
    assert greenness[0] > 0.3 > greenness[1]


def test_files_are_part_of_the_contract_and_may_not_change(sparse: Env, scan: Path) -> None:
    plain, scanned = (
        dataclasses.replace(SMALL, scan=folder).build(sparse).contract for folder in (None, scan)
    )
    assert plain.assets == "" and len(scanned.assets) == 64
    assert digest(plain) != digest(scanned)
    pinned = dataclasses.replace(SMALL, scan=scan).pinned()
    assert pinned.pinned() == pinned
    world = scan / "world.ply"
    before = world.read_bytes()
    try:
        world.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ValueError, match="changed since the run began"):
            pinned.build(sparse)
    finally:
        world.write_bytes(before)


def test_a_run_remembers_where_its_scan_is(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scan.parent)
    arguments = ["--pixels.cameras", "front", "--pixels.size", "16", "--pixels.splats", "300"]
    arguments += ["--pixels.scan", scan.name, "--run.folder", str(tmp_path), "--run.name", "a"]
    cfg, resume = parse_train(arguments)
    with open_run(cfg, resume, hooks=(), outputs=()) as run:
        stored = RunFolder.open(tmp_path / "a").read_config(TrainConfig).pixels
    assert stored == run.cfg.pixels and stored.scan == scan.resolve()
    monkeypatch.chdir(tmp_path)
    resumed, folder = parse_train(["--resume", str(tmp_path / "a")])
    assert resumed.pixels == stored and folder == tmp_path / "a"
    resumed.pixels.pinned()  # from another folder too


def test_a_scans_files_are_read_once_for_their_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again where they were replaced, though size and time are the same."""
    file, read = tmp_path / "world.ply", []
    file.write_bytes(b"one")
    file_digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *of: (read.append(of), file_digest(*of))[1])
    config = dataclasses.replace(SMALL, scan=tmp_path)
    first = config.pinned()
    assert first.pinned() == first and len(read) == 1
    written = file.stat()
    (tmp_path / "new").write_bytes(b"two")
    os.utime(tmp_path / "new", ns=(written.st_atime_ns, written.st_mtime_ns))
    (tmp_path / "new").replace(file)
    assert config.pinned().assets != first.assets and len(read) == 2


def test_missing_files_are_told(sparse: Env, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for wrong in ({"scan": tmp_path / "empty"}, {"surfaces": (tmp_path / "none.npz",)}):
        with pytest.raises(FileNotFoundError):
            dataclasses.replace(SMALL, **wrong).build(sparse)


def test_own_surfaces_come_before_the_shipped_ones(sparse: Env, tmp_path: Path) -> None:
    model = sparse.scene.model
    save_surface(load_surface("panda"), tmp_path / "mine.npz")
    mine = PixelConfig(splats=300, surfaces=(tmp_path / "mine.npz",))
    shipped, own = (config.splats_of(model) for config in (PixelConfig(splats=300), mine))
    np.testing.assert_array_equal(shipped.body_id, own.body_id)
    np.testing.assert_allclose(shipped.means, own.means, atol=3e-3)
    other = dataclasses.replace(load_surface("panda"), bodies=tuple("abcdefghijk"))
    save_surface(other, tmp_path / "other.npz")
    with pytest.raises(ValueError, match="the surface of no robot in this scene"):
        PixelConfig(surfaces=(tmp_path / "other.npz",)).splats_of(model)


def test_the_issues_own_flag_names_surfaces() -> None:
    cfg, _ = parse_train(["--pixels.looks", "a.npz", "b.npz"])
    assert cfg.pixels.surfaces == (Path("a.npz"), Path("b.npz"))
