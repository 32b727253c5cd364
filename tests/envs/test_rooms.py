"""A room behind a task: what is drawn of it, and what a policy and a run remember of it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_serl.adapters.gymnasium import EnvOptions
from mjx_serl.commands import parse_train
from mjx_serl.envs.env import Env
from mjx_serl.envs.observation import Observer, PixelConfig
from mjx_serl.envs.task import split_keys
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.serialize import digest, to_json
from splat_render.assets.bake import pose
from splat_render.assets.rooms.stored import load_room, room_names
from splat_render.types import BodyPoses

PLAIN = PixelConfig(cameras=("front",), size=64, splats=1500, backend="cpu")


@pytest.fixture(scope="module")
def plain(sparse: Env) -> Observer:
    return PLAIN.build(sparse)


@pytest.fixture(scope="module")
def wooden(sparse: Env) -> Observer:
    return dataclasses.replace(PLAIN, room="wood").build(sparse)


def picture(observer: Observer) -> np.ndarray:
    """What the front camera sees of a start, in [0, 1]."""
    worlds = jax.vmap(observer.env.reset)(split_keys(jax.random.key(0), 1))
    seen = observer.pictures(worlds, observer.looks(jax.random.key(1), 1))
    return np.asarray(seen["front"][0], np.float32) / 255


def test_a_room_replaces_the_world_and_costs_nothing_in_a_fixed_cameras_frame(
    sparse: Env, plain: Observer, wooden: Observer
) -> None:
    config = dataclasses.replace(PLAIN, room="wood")
    splats = config.splats_of(sparse.scene.model, cameras=config.specs(sparse.scene.spec))
    own = np.asarray(splats.body_id) == 0
    np.testing.assert_allclose(splats.means[own], load_room("wood", budget=PLAIN.splats).means)
    assert plain.cameras is not None and wooden.cameras is not None
    views = [observer.cameras.renderer.views[0] for observer in (plain, wooden)]
    assert len(views[0].splats.means) == len(views[1].splats.means)
    before, after = picture(plain), picture(wooden)
    assert np.abs(after - before)[:16].mean() > 0.02, "the wall is not there"
    red = (after[..., 0] - after[..., 1:].max(axis=-1)) > 0.3
    assert red.any(), "the cube is not there"


def cube_pixels(observer: Observer) -> np.ndarray:
    """How many pixels a cube changes at each of five places on the table."""
    assert observer.cameras is not None
    model = observer.env.scene.model
    at = model.jnt_qposadr[model.body("cube").jntadr[0]]
    posed = []
    for cube in ((0.45, -0.2, 0.02), (0.6, -0.1, 0.02), (0.5, 0.1, 0.02), (0.65, 0.2, 0.02), None):
        qpos = pose(model).qpos.copy()
        qpos[at : at + 3] = (0.0, 0.0, -3.0) if cube is None else cube
        posed.append(pose(model, qpos))
    arrays = (np.float32([getattr(d, name) for d in posed]) for name in ("xpos", "xquat"))
    poses = BodyPoses(*map(jnp.asarray, arrays))
    frame = observer.cameras.renderer.render(poses, jnp.zeros(len(posed), jnp.int32))
    rgb = np.asarray(frame.rgb[:, 0], float)
    return (np.abs(rgb[:-1] - rgb[-1]).max(axis=-1) > 40).sum(axis=(1, 2))


def test_a_rooms_table_hides_no_more_of_a_cube_than_the_plain_one(
    plain: Observer, wooden: Observer
) -> None:
    assert np.all(cube_pixels(wooden) >= 0.6 * cube_pixels(plain))


def test_a_policys_contract_names_the_room_so_that_its_world_can_be_built_anywhere(
    plain: Observer, wooden: Observer, tmp_path: Path
) -> None:
    assert "room" not in to_json(plain.contract) and plain.contract.assets == ""
    assert wooden.contract.room == "wood" and len(wooden.contract.assets) == 64
    assert digest(plain.contract) != digest(wooden.contract)
    rebuilt = PixelConfig(room=wooden.contract.room).pinned()
    assert rebuilt.assets == wooden.contract.assets and rebuilt.room == "wood"


def test_a_room_is_an_option_of_training_recording_and_gymnasium(tmp_path: Path) -> None:
    cfg, _ = parse_train(["--pixels.room", "lab"])
    assert cfg.pixels.room == "lab"
    assert EnvOptions.of({"room": "lab"}).pixels(["front"], 16).room == "lab"
    with pytest.raises(UnknownNameError, match="Unknown room 'wod'"):
        EnvOptions.of({"room": "wod"}).pixels(["front"], 16)
    doc = str(PixelConfig.__doc__)
    assert all(name in doc for name in room_names()), "--help lists them"


def test_an_unknown_room_is_told_even_where_nothing_is_drawn(sparse: Env) -> None:
    with pytest.raises(UnknownNameError, match="Unknown room 'wod'"):
        PixelConfig(room="wod").build(sparse)


def test_a_scan_and_a_room_are_not_taken_together(sparse: Env, tmp_path: Path) -> None:
    (tmp_path / "world.ply").write_bytes(b"")
    config = dataclasses.replace(PLAIN, scan=tmp_path, room="wood")
    with pytest.raises(InputError, match="give one"):
        config.splats_of(sparse.scene.model)
