"""A person at the page of a training run, as Chromium shows it: takes over, lifts the cube."""

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from browser import Browser, needs_chromium, wait_until
from keyboard_player import KeyboardPlayer, until

import mjx_serl
from mjx_serl import commands
from mjx_serl.agents.sac import SACConfig
from mjx_serl.api import load
from mjx_serl.config import EvalConfig, PilotConfig, RunConfig, TrainConfig
from mjx_serl.data.demos import load_demos
from mjx_serl.pilot.training import FILE, TrainingPilot
from mjx_serl.run.folder import RunFolder
from mjx_serl.run.hooks import EpochRecord, JsonlHook
from mjx_serl.training.demonstrations import DemoConfig, demo_contract
from mjx_serl.training.off_policy import POLICY_ACTION, LoopConfig, OffPolicyConfig
from robot_bridge.operators.browser_operator import BrowserOperator
from robot_bridge.operators.page_server import PilotServer, encode
from robot_bridge.operators.page_wire import Order

pytestmark = [needs_chromium, pytest.mark.slow]


class Pause:
    """Holds the run after its first epoch until the person is done."""

    def __init__(self) -> None:
        self.done, self.begun = threading.Event(), threading.Event()

    def on_start(self, info: Any) -> None:
        """Nothing."""

    def on_epoch(self, record: EpochRecord) -> None:
        """Wait."""
        self.begun.set()
        assert self.done.wait(120)

    def on_eval(self, record: Any) -> None:
        """Nothing."""

    def on_end(self, summary: Any) -> None:
        """Nothing."""


def run_of(folder: Path) -> TrainConfig:
    loop = LoopConfig(
        batch_size=16, updates_per_step=1, steps_per_epoch=5, warmup_steps=8, buffer_size=400
    )
    agent = SACConfig(hidden=(8,))
    return TrainConfig(
        num_envs=2,
        total_env_steps=30,
        method=OffPolicyConfig(agent=agent, loop=loop, demos=DemoConfig(count=2)),
        pilot=PilotConfig(serve=True, size=64, rows=400),
        eval=EvalConfig(every_epochs=100, check_episodes=2, episodes=2),
        run=RunConfig(folder=folder, name="run", bundle=False, tensorboard=False),
    )


class AtThePage(threading.Thread):
    """What the person does."""

    def __init__(self, pause: Pause, pilots: list[TrainingPilot]) -> None:
        super().__init__(daemon=True)
        self._pause, self._pilots = pause, pilots
        self.error: BaseException | None = None
        self.steps_to_move = 99

    def run(self) -> None:
        """Lift the cube; tell of what went wrong."""
        try:
            self._lift()
        except BaseException as error:
            self.error = error
        finally:
            self._pause.done.set()

    def _lift(self) -> None:
        assert self._pause.begun.wait(120)
        (pilot,) = self._pilots
        assert pilot.server is not None
        with Browser(pilot.server.url) as browser:
            wait_until(lambda: pilot._stages is not None, seconds=60)
            stages = pilot._stages
            assert stages is not None
            (stage,) = stages.stages
            player = KeyboardPlayer(browser, stage.world)
            player.press(";")
            wait_until(lambda: stage.state()["driver"] == "person", seconds=20)
            player.press("r")  # from the start, and at rest
            wait_until(lambda: stage.state()["state"] == "step 1", seconds=10)
            before, place = len(stage._episode), player.tool
            browser.key("j", down=True)
            until(lambda: player.tool[2] > place[2] + 0.002, seconds=5)
            self.steps_to_move = len(stage._episode) - before
            browser.key("j", down=False)
            player.lift()
            wait_until(lambda: pilot.metrics()["people/solved"] >= 1, seconds=10)
            assert "you drive" in browser.text()
            # A page that is left lets go, whatever its keys do.
            browser.evaluate("letGo()")
            wait_until(lambda: stage.state()["driver"] != "person", seconds=10)
            browser.key("w", down=True)
            wait_until(lambda: stage.state()["driver"] == "person", seconds=10)
            browser.evaluate("window.dispatchEvent(new Event('blur'))")
            wait_until(lambda: stage.state()["driver"] != "person", seconds=10)


def test_a_person_lifts_the_cube_and_the_run_learns_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pilots: list[TrainingPilot] = []

    def made() -> TrainingPilot:
        pilots.append(TrainingPilot())
        return pilots[-1]

    monkeypatch.setattr(commands, "TrainingPilot", made)
    cfg, pause = run_of(tmp_path), Pause()
    person = AtThePage(pause, pilots)
    person.start()
    path = tmp_path / "run"
    hooks = [pause, JsonlHook(RunFolder(path))]
    mjx_serl.train(cfg, hooks=hooks, outputs=())
    person.join()
    if person.error is not None:
        raise person.error
    assert person.steps_to_move <= 2

    rows = load(path).replay("people")
    expert = np.asarray(rows.expert)[:, 0]
    own, played = rows.extras[POLICY_ACTION][expert, 0], rows.action[expert, 0]
    assert expert.sum() > 10 and np.abs(own - played).max() > 0.5
    assert rows.reward[expert].sum() >= 1
    observer = dataclasses.replace(cfg, pilot=PilotConfig()).build_observer()
    demos = load_demos(path / FILE, demo_contract(observer))
    assert demos.reward.shape[1] == 1 and demos.expert.any()
    told = [row for row in RunFolder(path).read_metrics() if row["kind"] == "epoch"]
    assert told[0]["people/driven"] == 0 < told[-1]["people/driven"]
    jax.clear_caches()


def test_what_is_chosen_on_the_page_arrives() -> None:
    page = BrowserOperator(("x", "y", "z", "gripper"))
    about = {"file": "mine.npz", "episodes": [[1, 20, 1.0], [4, 9, 0.0]]}
    server = PilotServer(page, port=0, about=about | {"pause": False, "worlds": 2, "marks": True})
    worlds = [{"driver": "person", "state": "step 3"}, {"driver": "policy", "state": "step 8"}]
    grey = encode(np.full((8, 8, 3), 99, np.uint8))
    told = {"driver": "person", "state": "step 3", "worlds": worlds, "chosen": 1}
    server.publish(told, {"1:front": grey, "2:front": grey})

    def next_order() -> Order:
        found: list[Order] = []

        def came() -> bool:
            order = page.take_order()
            found.extend([] if order is None else [order])
            return bool(found)

        wait_until(came, seconds=10)
        return found[0]

    with Browser(server.url) as browser:
        wait_until(lambda: "Episodes in mine.npz" in browser.text(), seconds=20)
        wait_until(lambda: "1: a person, step 3 (chosen)" in browser.text(), seconds=20)
        assert "2: the policy, step 8" in browser.text()
        browser.press("replay")
        assert next_order() == Order("replay", 1)
        browser.press("delete")
        browser.press("really?")
        assert next_order() == Order("delete", 1), "once asked, and only then"
        server.tell({"episodes": [[4, 9, 0.0]]})
        wait_until(lambda: "20 steps" not in browser.text(), seconds=10)
        browser.press("replay")
        assert next_order() == Order("replay", 4)
        browser.key("2", down=True)
        browser.key("2", down=False)
        assert next_order() == Order("world", 2)
        browser.evaluate("document.getElementById('trains').click()")
        assert next_order() == Order("pause", 1)
        browser.key("c", down=True)
        wait_until(lambda: page.marks(time.monotonic()), seconds=10)
        browser.key("c", down=False)
        wait_until(lambda: not page.marks(time.monotonic()), seconds=10)
        assert page.take_order() is None
    server.close()
