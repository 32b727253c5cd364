"""The live page: what is sent to the browser, what its buttons do, what Chromium shows."""

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import Browser, needs_chromium, wait_until
from toy_env import STEPS, FurtherCameras, ToyEnv

from mjx_serl.envs.observation import Observer
from mjx_serl.registry import Registry
from mjx_serl.viewing import browser as viewer
from mjx_serl.viewing.browser import Page, SplatBodies, run_page
from mjx_serl.viewing.live_world import LiveWorld, Snapshot
from mjx_serl.viewing.recorded_env import RecordedEnv
from splat_render.types import GaussianSet

RED = np.array([230, 25, 25])


def toy_splats(count: int = 400) -> GaussianSet:
    """A beige slab that belongs to the world, 3 mm splats, and a red ball that is body 1."""
    draw = np.random.default_rng(0)
    slab = draw.uniform(-1, 1, (count, 3)) * (0.5, 0.5, 0.01)
    ball = draw.normal(size=(count, 3)) * 0.03
    color = np.repeat([[0.8, 0.7, 0.55], RED / 255], count, axis=0)
    return GaussianSet(
        means=jnp.asarray(np.concatenate([slab, ball]), jnp.float32),
        quats=jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (2 * count, 1)),
        scales=jnp.full((2 * count, 3), 0.02),
        opacities=jnp.full(2 * count, 0.9),
        sh=jnp.asarray((color[:, None] - 0.5) / 0.28209479, jnp.float32),
        body_id=jnp.repeat(jnp.arange(2), count),
    )


def moment(x: float = 0.0, **changes: Any) -> Snapshot:
    """The ball at `x` [m], ten centimetres above the slab."""
    fields = {
        "xpos": np.array([[0, 0, 0], [x, 0, 0.1]], np.float32),
        "xquat": np.tile(np.float32([1, 0, 0, 0]), (2, 1)),
        "pictures": {"front": np.full((64, 64, 3), (0, 200, 0), np.uint8)},
        "step": 3,
        "ended": False,
        "success": False,
    }
    return Snapshot(**(fields | changes))


# -- splats ------------------------------------------------------------------------------------


class SceneRecorder:
    """Stands in for viser's scene."""

    def __init__(self) -> None:
        self.frames: dict[str, SimpleNamespace] = {}
        self.splats: dict[str, dict[str, Any]] = {}

    def add_frame(self, name: str, *, show_axes: bool) -> SimpleNamespace:
        """Remember the frame."""
        assert not show_axes
        self.frames[name] = SimpleNamespace()
        return self.frames[name]

    def add_gaussian_splats(self, name: str, **fields: Any) -> None:
        """Remember the splats."""
        self.splats[name] = fields


def test_every_splat_is_sent_once_in_the_frame_of_its_body():
    scene, splats = SceneRecorder(), toy_splats()
    bodies = SplatBodies(scene, splats)
    assert list(scene.splats) == ["/body_0/splats", "/body_1/splats"]
    sent = scene.splats["/body_1/splats"]
    np.testing.assert_allclose(sent["centers"] * sent["scale"], splats.means[400:], atol=1e-6)
    np.testing.assert_allclose(255 * sent["rgbs"][0], RED, atol=1e-3)
    assert sent["opacities"].shape == (400, 1)
    now = moment(0.3)
    bodies.move(now.xpos, now.xquat)
    np.testing.assert_allclose(scene.frames["/body_1"].position, [0.3, 0, 0.1], atol=1e-6)
    np.testing.assert_allclose(scene.frames["/body_0"].wxyz, [1, 0, 0, 0])


def test_covariances_turn_with_the_splat_and_survive_float16():
    """A needle along x, turned by 90 degrees about z, lies along y; 1 mm keeps three digits."""
    half = np.sqrt(0.5)
    splats = toy_splats(1).replace(
        quats=jnp.asarray([[half, 0, 0, half]] * 2, jnp.float32),
        scales=jnp.asarray([[0.3, 0.02, 0.001]] * 2, jnp.float32),
    )
    scene = SceneRecorder()
    SplatBodies(scene, splats)
    sent = scene.splats["/body_0/splats"]
    carried = sent["covariances"].astype(np.float16).astype(np.float64) * sent["scale"] ** 2
    want = [0.02**2, 0.3**2, 0.001**2]
    np.testing.assert_allclose(np.diagonal(carried[0]), want, rtol=1e-3)
    assert np.abs(carried[0][0, 1]) < 1e-6


# -- the world ---------------------------------------------------------------------------------


def grey(worlds: Any, look: tuple) -> dict[str, jax.Array]:
    """A picture of 2 x 2 px."""
    return {
        "front": jnp.broadcast_to(worlds.t.astype(jnp.uint8)[:, None, None, None], (1, 2, 2, 3))
    }


@pytest.fixture(scope="module")
def policies() -> Registry[Any]:
    """One that pushes up, one that pushes down."""
    policies: Registry[Any] = Registry("policy")
    for name, push in (("up", 1.0), ("down", -1.0)):
        act = lambda worlds, obs, key, push=push: jnp.full((1, 2), push)  # noqa: E731
        policies.register(name)(jax.tree_util.Partial(act))
    return policies


@pytest.fixture
def world() -> LiveWorld:
    """A toy world."""
    env = ToyEnv()
    cameras = SimpleNamespace(
        config=SimpleNamespace(cameras=("front",)),
        pictures=grey,
        renderer=SimpleNamespace(shadows=None),
    )
    return LiveWorld(RecordedEnv(Observer(env), FurtherCameras(env, cameras)), seed=3)


def place(world: LiveWorld) -> float:
    """The number that actions push."""
    return float(world._world.carry[0, 0])


def test_policies_take_turns_in_one_world(world: LiveWorld, policies: Registry[Any]):
    start = place(world)
    world.step(policies["up"])
    assert place(world) == pytest.approx(start + 0.1)
    world.step(policies["down"])
    assert place(world) == pytest.approx(start)
    seen = world.snapshot()
    assert seen.step == 2 and seen.pictures["front"].max() == 2
    assert seen.xpos.shape == (2, 3) and seen.xquat.shape == (2, 4)


def test_an_unknown_policy_is_named(policies: Registry[Any]):
    with pytest.raises(KeyError, match="Unknown policy 'upp'. Did you mean 'up'"):
        policies["upp"]


def test_after_the_end_nothing_moves_until_it_starts_again(
    world: LiveWorld, policies: Registry[Any]
):
    for _ in range(STEPS + 2):
        world.step(policies["up"])
    end = world.snapshot()
    assert end.ended and end.step <= STEPS
    before = place(world)
    world.step(policies["up"])
    assert place(world) == before
    world.restart()
    again = world.snapshot()
    assert not again.ended and again.step == 0 and place(world) != before


class FakePage:
    """A visitor who does one thing at each picture shown."""

    def __init__(self, *wishes: Callable[["FakePage"], None]) -> None:
        self.playing, self.policy, self.restart = True, "up", False
        self.shown: list[Snapshot] = []
        self._wishes = list(wishes)

    def show(self, seen: Snapshot) -> None:
        """Remember it, then wish."""
        self.shown.append(seen)
        if self._wishes:
            self._wishes.pop(0)(self)

    def take_restart(self) -> bool:
        """Once per wish."""
        asked, self.restart = self.restart, False
        return asked


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes only where the program sleeps."""
    now = SimpleNamespace(t=0.0)
    monkeypatch.setattr(viewer.time, "monotonic", lambda: now.t)
    monkeypatch.setattr(viewer.time, "sleep", lambda seconds: setattr(now, "t", now.t + seconds))
    return now


def test_time_passes_as_fast_as_in_the_world(
    world: LiveWorld, policies: Registry[Any], clock: SimpleNamespace
):
    page = FakePage()
    run_page(world, policies, page, until=lambda: len(page.shown) > 2)
    assert [seen.step for seen in page.shown] == [0, 1, 2]
    assert clock.t == pytest.approx(0.1, abs=0.05)


def test_a_paused_page_waits(world: LiveWorld, policies: Registry[Any], clock: SimpleNamespace):
    page = FakePage(lambda page: setattr(page, "playing", False))
    run_page(world, policies, page, until=lambda: clock.t > 5)
    assert [seen.step for seen in page.shown] == [0]


def test_reset_starts_again_even_while_paused(
    world: LiveWorld, policies: Registry[Any], clock: SimpleNamespace
):
    def pause_and_reset(page: FakePage) -> None:
        page.playing, page.restart = False, True

    page = FakePage(lambda page: None, pause_and_reset)
    run_page(world, policies, page, until=lambda: clock.t > 5)
    assert [seen.step for seen in page.shown] == [0, 1, 0]


def test_an_ended_episode_is_held_and_starts_again(
    world: LiveWorld, policies: Registry[Any], clock: SimpleNamespace
):
    page = FakePage()
    run_page(world, policies, page, until=lambda: len(page.shown) > STEPS + 2)
    ends = [i for i, seen in enumerate(page.shown) if seen.ended]
    assert ends and page.shown[ends[0] + 1].step == 0
    assert clock.t > viewer.HOLD_S


# -- the page ----------------------------------------------------------------------------------


@pytest.fixture
def page() -> Iterator[Page]:
    """A page that is served on a free port."""
    with socket.socket() as free:
        free.bind((viewer.HOST, 0))
        port = free.getsockname()[1]
    served = Page(toy_splats(), policies=["up", "down"], cameras=["front"], title="toy", port=port)
    yield served
    served.close()


def test_only_this_machine_can_open_the_page(page: Page):
    host, port = page.url.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    with socket.create_connection((host, int(port)), timeout=5):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(port)), timeout=5).close()


def ball_column(picture: np.ndarray) -> float:
    """Mean column of the red pixels; nan where there are none."""
    red = np.abs(picture.astype(int) - RED).max(axis=-1) < 40
    return float(np.nonzero(red)[1].mean()) if red.sum() > 50 else np.nan


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_the_splats_where_the_bodies_are(page: Page):
    page.show(moment(-0.3))
    with Browser(page.url) as tab:
        wait_until(lambda: "step 3, running" in tab.text())
        wait_until(lambda: not np.isnan(ball_column(tab.screenshot())))
        before = ball_column(tab.screenshot())
        camera = (np.abs(tab.screenshot().astype(int) - (0, 200, 0)).max(axis=-1) < 3).sum()
        assert camera > 120 * 120
        page.show(moment(0.3, ended=True, success=True))
        wait_until(lambda: ball_column(tab.screenshot()) > before + 30)
        wait_until(lambda: "step 3, solved" in tab.text())


@pytest.mark.slow
@needs_chromium
def test_a_visitor_can_press_the_buttons(page: Page):
    with Browser(page.url) as tab:
        wait_until(lambda: "Pause" in tab.text())
        tab.press("Pause")
        wait_until(lambda: not page.playing and "Play" in tab.text())
        tab.press("Play")
        wait_until(lambda: page.playing)
        assert not page.take_restart()
        tab.press("Reset")
        wait_until(page.take_restart)
        assert page.policy == "up"
        tab.evaluate("document.querySelector('input[value=up]').click()")
        option = "document.querySelector('[role=option][value=down]')"
        wait_until(lambda: tab.evaluate(f"{option} !== null"))
        tab.evaluate(f"{option}.click()")
        wait_until(lambda: page.policy == "down")
        assert page.take_restart()
