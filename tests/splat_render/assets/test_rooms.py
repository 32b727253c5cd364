"""Rooms: what ships looks like its design, is small, and leaves room for tasks."""

from pathlib import Path

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from scenes.contract.errors import InputError, UnknownNameError
from splat_render.assets.fitting.studio import Photos
from splat_render.assets.rooms.designs import ROOMS, WORK_HIGH, WORK_LOW
from splat_render.assets.rooms.fit import HELD_OUT, likeness, room_eyes
from splat_render.assets.rooms.stored import (
    load_fits,
    load_room,
    room_file,
    room_names,
    save_room,
)
from splat_render.cameras import intrinsics
from splat_render.types import GaussianSet

PHOTOS = Path(__file__).parent / "data" / "room_photos.npz"
LEAST_PSNR = 21.0  # [dB] of a view, at 64 px; plain surfaces reach 14


def test_shipped_rooms_look_like_mujocos_pictures_of_their_designs() -> None:
    """From views that no fit has seen; `data/README.md` says how the pictures were made."""
    with np.load(PHOTOS, allow_pickle=False) as file:
        stored = dict(file)
    for name in room_names():
        rgb, alpha = stored[name], stored[f"{name}_alpha"]
        size, eyes = rgb.shape[1], room_eyes(np.random.default_rng(HELD_OUT), len(rgb))
        photos = Photos(
            rgb=rgb,
            alpha=alpha,
            viewmats=np.stack([eye.viewmat() for eye in eyes]),
            Ks=np.stack([intrinsics(eye.fovy, size, size) for eye in eyes]),
            xpos=np.zeros((len(rgb), 1, 3)),
            xquat=np.tile([1.0, 0, 0, 0], (len(rgb), 1, 1)),
        )
        for fit in load_fits(name):
            assert likeness(fit, photos) > LEAST_PSNR, (name, len(fit.means))


def test_every_design_ships_and_all_are_small() -> None:
    assert room_names() == tuple(ROOMS)
    assert sum(room_file(name).stat().st_size for name in room_names()) < 1e6


def test_nothing_of_a_room_stands_where_tasks_work() -> None:
    for name in room_names():
        for fit in load_fits(name):
            means = np.asarray(fit.means)
            assert not np.any(np.all((means > WORK_LOW) & (means < WORK_HIGH), axis=1))


def test_a_design_has_textures_and_light_to_be_fitted_to() -> None:
    model = ROOMS["wood"]()
    assert model.ntex == 3 and model.nbody == 2
    table = model.geom("table")
    assert table.pos[2] == 0.0 and table.type == mujoco.mjtGeom.mjGEOM_PLANE


def some(count: int) -> GaussianSet:
    rng = np.random.default_rng(count)
    quats = rng.normal(size=(count, 4))
    columns = {
        "means": rng.uniform(-2, 2, (count, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "scales": rng.uniform(0.01, 0.5, (count, 3)),
        "opacities": rng.uniform(size=count),
        "sh": rng.uniform(-1, 1, (count, 1, 3)),
    }
    columns = {name: jnp.asarray(value, jnp.float32) for name, value in columns.items()}
    return GaussianSet(**columns, body_id=jnp.zeros(count, jnp.int32))


def test_a_rooms_file_gives_back_its_splats_and_as_many_as_the_budget_allows(
    tmp_path: Path,
) -> None:
    file = tmp_path / "own.npz"
    few, many = some(30), some(200)
    save_room(file, [few, many])
    back = load_room(str(file), budget=300)
    np.testing.assert_allclose(back.means, many.means, atol=1e-4)
    np.testing.assert_allclose(back.scales, many.scales, rtol=0.03)
    assert not np.any(back.body_id)
    assert [len(load_room(str(file), budget=n).means) for n in (10, 260, 280)] == [30, 30, 200]


def test_a_wrong_room_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown room 'wod'.*wood"):
        load_room("wod", budget=100)
    with pytest.raises(FileNotFoundError, match="shipped: "):
        load_room(str(tmp_path / "none.npz"), budget=100)
    for name, content in (("text.npz", b"no"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="is no room"):
            load_room(str(tmp_path / name), budget=100)
    np.savez(tmp_path / "other.npz", points=np.zeros(3))
    with pytest.raises(InputError, match="is no room"):
        load_room(str(tmp_path / "other.npz"), budget=100)
