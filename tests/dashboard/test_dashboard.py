"""The dashboard's server and its page: who may do what, and what a person sees."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from browser import Browser, needs_chromium, wait_until
from run_folders import write_episodes, write_run

from mjx_serl.dashboard.server import Dashboard
from mjx_serl.run.remote import tell, told
from mjx_serl.run.run_lock import locked


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    """Of one live run, "live", and one that has ended, "done"."""
    write_run(tmp_path, "live")
    done = write_run(tmp_path, "done", final=True, lr=1e-3)
    (done / "policy.mp4").write_bytes(bytes(range(200)))
    write_episodes(done)
    (done / "mine.npz").write_bytes(b"no archive")
    served = Dashboard(tmp_path, port=0)
    with locked(tmp_path / "live"):
        yield served
    served.close()


def ask(
    dashboard: Dashboard, path: str, *, post: bool = False, headers: Any = None, **asked: str
) -> bytes:
    url = f"http://127.0.0.1:{dashboard.port}{path}?{urlencode(asked)}"
    request = Request(url, headers=headers or {}, method="POST" if post else "GET")
    with urlopen(request, timeout=10) as answer:
        return answer.read()


def refusal(dashboard: Dashboard, path: str, **asked: Any) -> tuple[int, str]:
    with pytest.raises(HTTPError) as refused:
        ask(dashboard, path, **asked)
    with refused.value as answer:
        return answer.code, json.loads(answer.read())["error"]


def test_everybody_on_the_machine_may_look(dashboard: Dashboard) -> None:
    lines = {line["name"]: line for line in json.loads(ask(dashboard, "/api/lines"))}
    assert lines["live"]["state"] == "training" and lines["done"]["state"] == "finished"
    assert len(json.loads(ask(dashboard, "/api/curve", run="done"))["epochs"]) == 20
    assert json.loads(ask(dashboard, "/api/config", run="done"))["method.agent.lr"] == 1e-3
    assert b"<title>runs</title>" in ask(dashboard, "/")


def test_a_video_can_be_asked_for_in_parts(dashboard: Dashboard) -> None:
    whole = ask(dashboard, "/file", run="done", name="policy.mp4")
    assert whole == bytes(range(200))
    for asked, want in (("bytes=10-19", whole[10:20]), ("bytes=190-", whole[190:])):
        part = ask(dashboard, "/file", run="done", name="policy.mp4", headers={"Range": asked})
        assert part == want


def test_an_episode_is_told_step_by_step(dashboard: Dashboard) -> None:
    of = {"run": "done", "file": "episodes.npz"}
    told = json.loads(ask(dashboard, "/api/episodes", **of))
    assert told["episodes"] == [
        {"source": "online", "steps": 12, "success": True},
        {"source": "people", "steps": 8, "success": False},
    ]
    assert (told["action_names"], told["cameras"]) == (["x", "gripper"], {"front": [8, 8]})
    steps = json.loads(ask(dashboard, "/api/steps", **of, episode="1"))
    assert steps["q"][-1] == 1.0 and all(steps["expert"]) and steps["policy_action"][0] == [0.5] * 2
    steps = json.loads(ask(dashboard, "/api/steps", **of, episode="0"))
    assert steps["policy_action"][0] == [None, None], "what is not finite is no JSON"
    seen = ask(dashboard, "/pictures", **of, episode="1", camera="front")
    assert seen == bytes(step for step in range(12, 20) for _ in range(8 * 8 * 3))


def test_who_has_the_token_tells_a_live_run(dashboard: Dashboard, tmp_path: Path) -> None:
    mine = {"X-Token": dashboard.token}
    ask(dashboard, "/api/tell", post=True, headers=mine, run="live", what="pause")
    assert told(tmp_path / "live") == "pause"
    assert told(tmp_path / "live") is None, "once"
    code, why = refusal(dashboard, "/api/tell", post=True, headers=mine, run="done", what="stop")
    assert code == 400 and why == "run 'done' is finished: nobody would hear it"
    code, why = refusal(dashboard, "/api/tell", post=True, headers=mine, run="live", what="erase")
    assert code == 400 and "Unknown command 'erase'" in why


@pytest.mark.parametrize("headers", [{}, {"X-Token": "guessed"}, {"X-Token": ""}])
def test_who_has_no_token_tells_nothing(
    dashboard: Dashboard, tmp_path: Path, headers: dict[str, str]
) -> None:
    code, why = refusal(dashboard, "/api/tell", post=True, headers=headers, run="live", what="stop")
    assert code == 401 and "read-only" in why
    assert told(tmp_path / "live") is None


@pytest.mark.parametrize(
    ("path", "asked", "code"),
    [
        ("/api/curve", {"run": "../live"}, 400),
        ("/api/curve", {}, 400),
        ("/file", {"run": "done", "name": "config.json"}, 400),
        ("/file", {"run": "done", "name": "../../etc/passwd"}, 400),
        ("/file", {"run": "live", "name": "policy.mp4"}, 404),
        ("/api/episodes", {"run": "done", "file": "../live/metrics.jsonl"}, 400),
        ("/api/episodes", {"run": "done", "file": "mine.npz"}, 400),
        ("/api/steps", {"run": "done", "file": "episodes.npz", "episode": "2"}, 400),
        ("/api/steps", {"run": "done", "file": "episodes.npz", "episode": "-1"}, 400),
        ("/pictures", {"run": "done", "file": "episodes.npz", "episode": "0", "camera": "x"}, 400),
        ("/etc/passwd", {}, 404),
    ],
)
def test_nothing_else_is_served(
    dashboard: Dashboard, path: str, asked: dict[str, str], code: int
) -> None:
    assert refusal(dashboard, path, **asked)[0] == code


def test_a_name_that_is_pointed_here_is_refused(dashboard: Dashboard) -> None:
    code, why = refusal(dashboard, "/", headers={"Host": f"evil.example:{dashboard.port}"})
    assert (code, why) == (403, "not this host")


def test_what_is_told_that_is_no_command_is_dropped(tmp_path: Path) -> None:
    tell(tmp_path, "rm -rf")
    assert told(tmp_path) is None and not (tmp_path / "command").exists()


def test_no_folder_and_no_port_are_told(tmp_path: Path, dashboard: Dashboard) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        Dashboard(tmp_path / "nowhere")
    other = Dashboard(tmp_path, port=dashboard.port)
    assert other.port != dashboard.port
    other.close()


@needs_chromium
def test_a_person_sees_twenty_runs_and_pauses_a_live_one(tmp_path: Path) -> None:
    for i in range(20):
        write_run(tmp_path, f"done-{i:02d}", epochs=400, final=True, seed=i, lr=1e-4 * (1 + i % 2))
    for i in range(2):
        write_run(tmp_path, f"live-{i}", epochs=400)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    served = Dashboard(tmp_path, port=0)
    with contextlib.ExitStack() as held:
        for i in range(2):
            held.enter_context(locked(tmp_path / f"live-{i}"))
        page = held.enter_context(Browser(served.url))
        wait_until(lambda: page.evaluate("window.painted || 0") > 0, seconds=20)
        assert page.evaluate("window.painted") < 2000, "first paint [ms]"
        text = page.text()
        assert "1 damaged" in text and "20 finished" in text and "2 training" in text
        assert page.evaluate("chosen[0]").startswith("live")
        shown = page.evaluate("document.querySelectorAll('#charts canvas').length")
        assert shown >= 3
        page.press("pause")
        name = page.evaluate("chosen[0]")
        wait_until(lambda: (tmp_path / name / "command").exists(), seconds=5)
        assert told(tmp_path / name) == "pause"
        pixels = page.screenshot()
        assert len({tuple(p) for p in pixels.reshape(-1, 3)[::97].tolist()}) > 10, "drawn"
        # Two finished runs: only the options that differ.
        page.evaluate("chosen = ['done-00', 'done-01']; refresh()")
        wait_until(lambda: "options that differ (2)" in page.text(), seconds=10)
    served.close()


@needs_chromium
def test_a_person_scrubs_an_episode(tmp_path: Path) -> None:
    path = write_run(tmp_path, "done", final=True)
    write_episodes(path)
    (path / "mine.npz").write_bytes(b"no archive")
    served = Dashboard(tmp_path, port=0)
    with Browser(served.url) as page:
        wait_until(lambda: page.evaluate("!!replay.numbers"), seconds=20)
        grey = "document.querySelector('#frames canvas').getContext('2d').getImageData(4, 4, 1, 1)"
        page.evaluate("$('at').value = 5; $('at').oninput()")
        assert "step 6 of 12" in page.text() and page.evaluate(f"{grey}.data[0]") == 5
        page.evaluate("seek(11)")
        assert "terminated · success" in page.text()
        assert "mine.npz cannot be shown: File is not a zip file" in page.text()
        page.evaluate("$('episode').selectedIndex = 1; $('episode').onchange()")
        wait_until(lambda: "step 1 of 8" in page.text(), seconds=10)
        assert page.evaluate(f"{grey}.data[0]") == 12
        assert "chosen by an expert or a person" in page.text()
        assert "what the policy would have done" in page.text()
        # Newer ones do not take away what is looked at.
        write_episodes(path)
        page.evaluate("refresh()")
        wait_until(lambda: "show the newer ones" in page.text(), seconds=10)
        assert "step 1 of 8" in page.text()
        page.press("show the newer ones")
        wait_until(lambda: "step 1 of 12" in page.text(), seconds=10)
    served.close()
