"""A page in the browser where a task is played live: splats on moving bodies, buttons, cameras.

It is served on this machine only (loopback); to see it from elsewhere forward the port with ssh.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mjx_serl.viewing.checkpoints import CheckpointMenu, Checkpoints
from mjx_serl.viewing.episode_video import HOLD_S
from mjx_serl.viewing.live_world import LiveWorld, Snapshot
from mjx_serl.viewing.play import TRAINED, Playable
from mjx_serl.viewing.policies import WorldPolicy
from mjx_serl.viewing.recorded_env import SIDE
from mjx_serl.viewing.video import side_by_side
from scenes.contract.command_line import require_port
from scenes.contract.extras import require
from scenes.contract.local_page import HOST
from scenes.contract.rotations import quats_to_matrices
from splat_render.types import SH_C0, GaussianSet

# viser stores covariances as float16, whose smallest normal number is the variance of an 8 mm
# splat in metres; in centimetres it is that of a 0.08 mm one.
UNIT = 0.01
_PICTURE = 128  # least height of the cameras' pictures on the page: two fit side by side [px]
_BLANK = np.zeros((_PICTURE, _PICTURE, 3), np.uint8)
_IDLE_S = 0.02  # between two readings of the buttons of a paused page [s]


class SplatBodies:
    """Splats in the browser, each body's in a frame that is moved with it."""

    def __init__(self, scene: Any, splats: GaussianSet) -> None:
        body_id = np.asarray(splats.body_id)
        covariances = _covariances(splats) / UNIT**2
        colors = np.clip(0.5 + SH_C0 * np.asarray(splats.sh)[:, 0], 0.0, 1.0)
        self._frames = {}
        for body in np.unique(body_id):
            mine = body_id == body
            self._frames[int(body)] = scene.add_frame(f"/body_{body}", show_axes=False)
            scene.add_gaussian_splats(
                f"/body_{body}/splats",
                centers=np.asarray(splats.means)[mine] / UNIT,
                covariances=covariances[mine],
                rgbs=colors[mine],
                opacities=np.asarray(splats.opacities)[mine, None],
                scale=UNIT,
            )

    def add_frame(self, scene: Any, body: int) -> None:
        """Let a body without splats have a frame too, for what else is on it."""
        if body not in self._frames:
            self._frames[body] = scene.add_frame(f"/body_{body}", show_axes=False)

    def move(self, xpos: Float[np.ndarray, "B 3"], xquat: Float[np.ndarray, "B 4"]) -> None:
        """Put the bodies where they are."""
        for body, frame in self._frames.items():
            frame.position, frame.wxyz = xpos[body], xquat[body]


class Page:
    """The page in the browser, and what was last asked for on it.

    Attributes:
        url: its address.
        playing: whether time passes.
        policy: the name chosen.
        menu: of checkpoints; None where there are none.

    Args:
        splats: of the scene.
        policies: names to choose from, the first one is chosen.
        cameras: names of those whose pictures are shown.
        title: of the browser's tab.
        playing: whether time passes at first.
        checkpoints: of a run, to choose from; None where there are none.
        port: to serve on; the next free one if it is taken.
    """

    def __init__(
        self,
        splats: GaussianSet,
        *,
        policies: Sequence[str],
        cameras: Sequence[str],
        title: str,
        playing: bool = True,
        checkpoints: Checkpoints | None = None,
        port: int = 8080,
    ) -> None:
        viser = require("viser", "viz", purpose="The viewer")
        # Browsers open connections that they never use; each would print a traceback.
        quiet = logging.getLogger("websockets.server")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False  # to a handler that another package has set up
        self.playing = playing
        self.policy = policies[0]
        self._restart = False
        self._server = viser.ViserServer(host=HOST, port=port, label=title, verbose=False)
        self.url = f"http://{HOST}:{self._server.get_port()}"
        # The share button would show the page to anyone with its address.
        self._server.gui.configure_theme(show_share_button=False, show_logo=False)
        self._server.gui.main_panel.dock_right()
        self._server.scene.set_up_direction("+z")
        self._server.initial_camera.position = (1.3, -1.0, 0.8)
        self._server.initial_camera.look_at = (0.3, 0.0, 0.2)
        self._bodies = SplatBodies(self._server.scene, splats)
        self._add_controls(policies)
        self.menu = checkpoints and CheckpointMenu(self._server.gui, checkpoints)
        self._status = self._server.gui.add_markdown("")
        self._cameras = tuple(cameras)
        self._image = self._server.gui.add_image(_BLANK, label=", ".join(cameras), format="png")

    def show(self, moment: Snapshot) -> None:
        """Bring the page up to date, all of it at once."""
        with self._server.atomic():
            if not moment.not_finite:  # else they stay where they were last
                self._bodies.move(moment.xpos, moment.xquat)
            self._status.content = describe(moment)
            views = [moment.pictures[name][None] for name in self._cameras]
            self._image.image = side_by_side(views, least=_PICTURE)[0]

    def take_restart(self) -> bool:
        """Return whether a new episode was asked for since the last call."""
        asked, self._restart = self._restart, False
        return asked

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()

    def _add_controls(self, policies: Sequence[str]) -> None:
        gui = self._server.gui
        play = gui.add_button("Pause" if self.playing else "Play")
        reset = gui.add_button("Reset")
        choice = gui.add_dropdown("Policy", tuple(policies), initial_value=self.policy)

        @play.on_click
        def _(event: Any) -> None:
            self.playing = not self.playing
            play.label = "Pause" if self.playing else "Play"

        @reset.on_click
        def _(event: Any) -> None:
            self._restart = True

        @choice.on_update
        def _(event: Any) -> None:
            self.policy = choice.value
            self._restart = True


def run_page(
    world: LiveWorld,
    policies: Mapping[str, WorldPolicy],
    page: Page,
    *,
    before: Callable[[], None] = lambda: None,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Play in real time until `until` says so; an ended episode starts again.

    `before` is called between steps, also while the page is paused.
    """
    page.show(world.snapshot())
    resume_at = time.monotonic()
    while not until():
        before()
        if page.take_restart():
            world.restart()
        elif not page.playing or time.monotonic() < resume_at:
            time.sleep(_IDLE_S)
            continue
        elif world.ended:
            world.restart()
        else:
            world.step(policies[page.policy])
        moment = world.snapshot()
        page.show(moment)
        resume_at = max(resume_at, time.monotonic() - world.dt) + world.dt
        resume_at += HOLD_S if moment.ended else 0.0


def require_page(port: int) -> None:
    """Raise InputError for no port number, MissingPackageError without viser."""
    require_port(port)
    require("viser", "viz", purpose="The viewer")


def serve(playable: Playable, *, seed: int, port: int) -> int:
    """Serve a page where any of the policies plays until Ctrl-C; returns the exit status.

    Args:
        playable: what is played, from `build_playable`; a run's checkpoints can be swapped.
        seed: of the starts and the policies' noise.
        port: to serve on; the next free one if it is taken.
    """
    recorded, policies, first = playable.recorded, playable.policies, playable.chosen
    names = [first, *(name for name in policies if name != first)]
    played = {name: policies[name] for name in names}
    world = LiveWorld(recorded, seed=seed, start=playable.start)
    splats = recorded.splats()
    title = recorded.env.name
    # The page itself is a view from the side.
    cameras = [name for name in world.cameras if name != SIDE]
    page = Page(
        splats,
        policies=names,
        cameras=cameras,
        title=title,
        playing=playable.start is None,  # else its start is what there is to see
        checkpoints=playable.checkpoints,
        port=port,
    )

    def renew() -> None:
        if page.menu is not None:
            played[TRAINED] = page.menu.renew()

    print(f"{title}: {page.url} (Ctrl-C ends)", flush=True)
    try:
        run_page(world, played, page, before=renew)
    except KeyboardInterrupt:
        page.close()
    return 0


def describe(moment: Snapshot) -> str:
    """Return the step and state of the episode as text."""
    if moment.not_finite:
        return f"step {moment.step}, not finite: {', '.join(moment.not_finite)}"
    state = "solved" if moment.success else "over" if moment.ended else "running"
    return f"step {moment.step}, {state}"


def _covariances(splats: GaussianSet) -> Float[np.ndarray, "G 3 3"]:
    """Return R S S^T R^T in the bodies' frames [m^2]."""
    rotation = quats_to_matrices(np.asarray(splats.quats, np.float64))
    axes = rotation * np.asarray(splats.scales)[:, None, :]
    return axes @ axes.swapaxes(-1, -2)
