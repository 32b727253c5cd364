"""A page where point pairs of a scan and a model are clicked, for `splat_render.assets.align`.

    python -m splat_render.assets.pick_pairs SCAN.ply --model scene.xml \\
        --joints 0 0.2 0 -2 0 2.3 0.8 0.04 0.04 --out pairs.txt

The scan stands left, the model right of it; a click on the scan and one on the same place of the
model make a pair. Served on this machine only; see docs/scans.md.
"""

import dataclasses
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import tyro
from jaxtyping import Float

from scenes.contract.command_line import guarded, require_port
from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.files import require_writable, write_atomically
from scenes.contract.ranges import check_ranges
from splat_render.assets.align import joints_to_qpos, load_model
from splat_render.assets.alignment_checks import pair_rms
from splat_render.assets.bake import pose, scene_samples
from splat_render.assets.load import load_splats
from splat_render.assets.surface import in_world
from splat_render.types import SH_C0, GaussianSet

HOST = "127.0.0.1"
NEEDED = 3  # pairs, and one more to be told of a wrong one
_SHOWN = 60_000  # points of each: more than a picture has room for
_APART = 1.6  # between the middles of the two, in radii of the larger
_CONE = 0.02  # [rad] a click takes the nearest point so close to its ray
_SOLID = 0.3  # opacity that can be clicked


class PairPicker:
    """The clicks so far: points of the scan and of the model in turn.

    Attributes:
        pairs: a point in the scan and the same one in the world [m], [P, 6].
        waiting: the point of the scan whose partner has not been clicked yet.
    """

    def __init__(self) -> None:
        self.pairs: list[Float[np.ndarray, " 6"]] = []
        self.waiting: Float[np.ndarray, " 3"] | None = None

    def click_scan(self, point: Float[np.ndarray, " 3"]) -> None:
        """Take a point of the scan; another one instead of the last where that waits."""
        self.waiting = point

    def click_model(self, point: Float[np.ndarray, " 3"]) -> None:
        """Take the same point in the world [m]; without one of the scan it does nothing."""
        if self.waiting is not None:
            self.pairs.append(np.concatenate([self.waiting, point]))
            self.waiting = None

    def undo(self) -> None:
        """Forget the last click."""
        if self.waiting is not None:
            self.waiting = None
        elif self.pairs:
            self.waiting = self.pairs.pop()[:3]

    def describe(self) -> str:
        """What is there, how well it fits, and what to do next, as Markdown."""
        count = len(self.pairs)
        side = "the scan (left)" if self.waiting is None else "the same place of the model (right)"
        lines = [f"**{count} pairs**. Click {side}."]
        if count >= NEEDED:
            try:
                lines.append(f"They fit to {1e3 * pair_rms(np.array(self.pairs)):.1f} mm.")
            except InputError as error:
                lines.append(f"**{error}**")
        else:
            lines.append(f"At least {NEEDED} are needed, better 4, not on a line.")
        return "\n\n".join(lines)


def nearest_on_ray(
    points: Float[np.ndarray, "N 3"],
    origin: Float[np.ndarray, " 3"],
    direction: Float[np.ndarray, " 3"],
) -> int | None:
    """Return the first point within a narrow cone around a ray, None where there is none."""
    along = (points - origin) @ (direction / np.linalg.norm(direction))
    aside = np.linalg.norm(points - origin, axis=1) ** 2 - along**2
    hit = (along > 0) & (aside <= (_CONE * along) ** 2)
    return int(np.argmin(np.where(hit, along, np.inf))) if hit.any() else None


def write_pairs(path: Path, pairs: Sequence[Float[np.ndarray, " 6"]]) -> None:
    """Write pairs, one per line: a point in the scan, the same one in the world [m]."""
    write_atomically(path, "".join(f"{' '.join(f'{x:.6g}' for x in pair)}\n" for pair in pairs))


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """Points as they stand on the page.

    Attributes:
        points: as in the file or the world.
        rgb: their colours in [0, 1].
        scale: from the file or the world to the page.
        shift: likewise, after the scale.
    """

    points: Float[np.ndarray, "N 3"]
    rgb: Float[np.ndarray, "N 3"]
    scale: float
    shift: Float[np.ndarray, " 3"]

    @property
    def on_page(self) -> Float[np.ndarray, "N 3"]:
        """Where they are drawn."""
        return self.points * self.scale + self.shift


def beside(scan: GaussianSet, model: mujoco.MjModel, data: mujoco.MjData) -> tuple[Shown, Shown]:
    """Return scan and model side by side, both about a radius of one."""
    rng = np.random.default_rng(0)
    solid = np.flatnonzero(np.asarray(scan.opacities) > _SOLID)
    some = rng.permutation(solid)[:_SHOWN]
    colour = np.clip(0.5 + SH_C0 * np.asarray(scan.sh)[some, 0], 0, 1)
    samples = scene_samples(model, data, points=_SHOWN)
    surface = in_world(samples.points, samples.body_id, data)
    # A floor of ten metres would leave the robot a speck.
    near = np.linalg.norm(surface - surface[samples.body_id > 0].mean(axis=0), axis=1) < 1.5
    left = _fitted(np.asarray(scan.means, np.float64)[some], colour, -_APART / 2)
    return left, _fitted(surface[near], samples.rgba[near, :3], _APART / 2)


def _fitted(points: Float[np.ndarray, "N 3"], rgb: Float[np.ndarray, "N 3"], aside: float) -> Shown:
    middle = np.median(points, axis=0)
    radius = float(np.quantile(np.linalg.norm(points - middle, axis=1), 0.9))
    return Shown(points, rgb, 1 / radius, np.array([0.0, 2 * aside, 0.0]) - middle / radius)


class PickPage:
    """The page, open until `finished`.

    Attributes:
        url: its address.
        picker: what has been clicked.
        finished: set when the visitor has pressed the button.
    """

    def __init__(self, scan: Shown, model: Shown, *, port: int = 8080) -> None:
        viser = require("viser", "viz", purpose="The page for pairs")
        self.picker, self.finished = PairPicker(), threading.Event()
        self._scan, self._model = scan, model
        self._server = viser.ViserServer(host=HOST, port=port, label="pairs", verbose=False)
        self.url = f"http://{HOST}:{self._server.get_port()}"
        self._server.gui.configure_theme(show_share_button=False, show_logo=False)
        self._server.scene.set_up_direction("+z")
        self._server.initial_camera.position = (4.5, 0.0, 2.5)
        self._server.initial_camera.look_at = (0.0, 0.0, 0.0)
        for name, shown in (("scan", scan), ("model", model)):
            self._server.scene.add_point_cloud(
                f"/{name}", shown.on_page.astype(np.float32), shown.rgb, point_size=0.008
            )
        self._text = self._server.gui.add_markdown(self.picker.describe())
        self._server.gui.add_button("Undo").on_click(self._undo)
        self._server.gui.add_button("Done").on_click(self._finish)
        self._server.scene.on_click()(self._clicked)

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()

    def pick(self, origin: Sequence[float], direction: Sequence[float]) -> None:
        """Take what is first along a ray on the page."""
        start, ahead = np.asarray(origin, np.float64), np.asarray(direction, np.float64)
        hits = []
        for shown, take in (
            (self._scan, self.picker.click_scan),
            (self._model, self.picker.click_model),
        ):
            index = nearest_on_ray(shown.on_page, start, ahead)
            if index is not None:
                distance = np.linalg.norm(shown.on_page[index] - start)
                hits.append((distance, shown.points[index], take))
        if hits:
            _, point, take = min(hits, key=lambda hit: hit[0])
            take(point)
        self._show()

    def _clicked(self, event: Any) -> None:
        self.pick(event.ray_origin, event.ray_direction)

    def _undo(self, _: Any) -> None:
        self.picker.undo()
        self._show()

    def _finish(self, _: Any) -> None:
        self.finished.set()

    def _show(self) -> None:
        self._text.content = self.picker.describe()
        pairs = np.array(self.picker.pairs).reshape(-1, 6)
        waiting = [] if self.picker.waiting is None else [self.picker.waiting]
        for name, shown, points in (
            ("scan", self._scan, [*pairs[:, :3], *waiting]),
            ("model", self._model, [*pairs[:, 3:]]),
        ):
            marks = np.array(points).reshape(-1, 3) * shown.scale + shown.shift
            self._server.scene.add_point_cloud(
                f"/clicked/{name}", marks.astype(np.float32), (255, 0, 255), point_size=0.04
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PickOptions:
    """Click point pairs of a scan and a model in the browser; docs/scans.md goes through it.

    Attributes:
        scan: .ply (3DGS, plain or compressed), .spz or .splat.
        model: MJCF or .mjb of the scene.
        joints: one value per hinge and slide of the model, in its order [rad], [m].
        out: file to write, for `splat_render.assets.align --pairs`.
        port: of the page; the next free one if it is taken.
    """

    scan: tyro.conf.Positional[Path]
    model: Path
    joints: tuple[float, ...]
    out: Path = Path("pairs.txt")
    port: int = 8080


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until its visitor is done; returns the exit status."""
    program = "python -m splat_render.assets.pick_pairs"
    options = tyro.cli(PickOptions, prog=program, args=arguments)
    return guarded(lambda: _pick(options))


def _pick(options: PickOptions) -> int:
    check_ranges(options)
    require_port(options.port)
    # Before anything is clicked, for what is clicked is written last.
    require_writable(options.out)
    model = load_model(options.model)
    data = pose(model, joints_to_qpos(model, options.joints))
    page = PickPage(*beside(load_splats(options.scan), model, data), port=options.port)
    sys.stdout.write(f"{page.url} (the button Done or Ctrl-C ends)\n")
    sys.stdout.flush()
    try:
        page.finished.wait()
    except KeyboardInterrupt:
        sys.stdout.write("\n")
    finally:
        page.close()
        write_pairs(options.out, page.picker.pairs)
    sys.stdout.write(f"{options.out}: {len(page.picker.pairs)} pairs\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
