"""Pairs are clicked in turn on a page and read by the aligner."""

import contextlib
import io
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
import pytest

from scenes.build import build_scene
from scenes.contract.command_line import BAD_INPUT
from scenes.layouts import pick_cube
from splat_render.assets import align, pick_pairs
from splat_render.assets.bake import bake, pose
from splat_render.assets.formats.ply import save_ply
from splat_render.assets.pick_pairs import PairPicker, PickPage, beside, nearest_on_ray

CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def test_clicks_make_pairs_in_turn() -> None:
    picker = PairPicker()
    picker.click_model(CORNERS[1])  # the scan comes first
    assert picker.pairs == [] and "the scan" in picker.describe()
    picker.click_scan(CORNERS[3])
    picker.click_scan(CORNERS[0])  # instead of the last
    assert "the same place of the model" in picker.describe()
    picker.click_model(CORNERS[1])
    assert np.array_equal(picker.pairs, [[*CORNERS[0], *CORNERS[1]]])
    picker.undo()
    assert picker.pairs == [] and np.array_equal(picker.waiting, CORNERS[0])
    picker.undo()
    picker.undo()
    assert picker.waiting is None


def test_a_wrong_pair_is_told_at_once() -> None:
    picker = PairPicker()
    for scan, world in zip(CORNERS, CORNERS[[0, 2, 1, 3]], strict=True):
        picker.click_scan(scan)
        picker.click_model(world)
    assert "do not fit each other" in picker.describe()
    picker.pairs = [np.concatenate([2 * corner, corner]) for corner in CORNERS]
    assert "They fit to 0.0 mm" in picker.describe()


def test_a_click_takes_the_first_point_near_its_ray() -> None:
    points = np.array([[5.0, 0.01, 0], [2, 0.01, 0], [1, 0.5, 0], [-1, 0, 0]])
    assert nearest_on_ray(points, np.zeros(3), np.array([3.0, 0, 0])) == 1
    assert nearest_on_ray(points, np.zeros(3), np.array([0.0, 0, 1])) is None


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_scene(pick_cube()).model


@pytest.fixture
def page(model: mujoco.MjModel) -> Iterator[PickPage]:
    page = PickPage(*beside(bake(model, budget=600), model, pose(model)))
    yield page
    page.close()


def test_the_page_is_served_and_its_clicks_are_of_the_right_frame(page: PickPage) -> None:
    with urllib.request.urlopen(page.url) as answer:
        assert answer.status == 200
    for shown in (page._scan, page._model):
        # Close enough for the cone around the ray to be narrower than the gap between the two.
        eye = shown.on_page[5] + np.array([6.0, 0.0, 0.0])
        page.pick(eye.tolist(), (shown.on_page[5] - eye).tolist())
    (pair,) = page.picker.pairs
    # What is clicked lies in front of the point that was aimed at, or is that point.
    for shown, clicked in ((page._scan, pair[:3]), (page._model, pair[3:])):
        assert np.min(np.linalg.norm(shown.points - clicked, axis=1)) < 1e-9
    page.pick([50, 0, 0], [0, 0, 1])
    assert len(page.picker.pairs) == 1 and "1 pairs" in page._text.content


def test_the_aligner_reads_what_the_page_wrote(tmp_path: Path, model: mujoco.MjModel) -> None:
    save_ply(tmp_path / "scan.ply", bake(model, budget=600))
    mujoco.mj_saveModel(model, str(tmp_path / "scene.mjb"), None)
    pick_pairs.write_pairs(tmp_path / "pairs.txt", [np.arange(6.0) * k for k in range(5)])
    joints = [str(x) for x in pose(model).qpos[:9]]
    command = [str(tmp_path / "scan.ply"), "--model", str(tmp_path / "scene.mjb")]
    command += ["--joints", *joints, "--out", str(tmp_path / "out")]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert align.main([*command, "--pairs", str(tmp_path / "pairs.txt")]) != 0
        (tmp_path / "bad.txt").write_text("1 2 3\n")
        assert align.main([*command, "--pairs", str(tmp_path / "bad.txt")]) != 0
    assert "lie on a line" in errors.getvalue() or "do not fit" in errors.getvalue()
    assert "line 1: got '1 2 3', needed: SX SY SZ X Y Z" in errors.getvalue()


def test_a_file_that_cannot_be_written_is_told_before_anything_is_clicked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(tmp_path / "scan.ply"), "--model", "scene.xml", "--joints", "0"]
    absent = tmp_path / "none" / "pairs.txt"
    for out, why in ((tmp_path, "Is a directory"), (absent, "No such file or directory")):
        assert pick_pairs.main([*command, "--out", str(out)]) == BAD_INPUT
        assert capsys.readouterr().err == f"error: {why}: '{out}'\n"
