"""What episodes were told, into a dataset and back; demonstrations as ManiSkill-GS's are."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from foreign_task import ACTION, CONTRACT, FRONT, NUMBERS, imported, numbers

from mjx_serl.adapters.ancestors import ANCESTORS
from mjx_serl.data.foreign.export import export_lerobot
from mjx_serl.data.foreign.lerobot import open_lerobot
from mjx_serl.tasks.put_cube_on_plate import OBS_PLATE, PUT, SAID
from scenes.contract.demonstrations import DemoContract, stack_episodes, write_demonstrations
from scenes.contract.language import (
    BYTES,
    INSTRUCTION,
    Language,
    TokenizerConfig,
    instruction_field,
    tokens_of,
)
from scenes.contract.specs import ObsField, ObsSpec

TOKENIZER = BYTES.build()
LANGUAGE = Language(tokenizer=BYTES, instruction=SAID.train[0])
SAYING = (SAID.train[1], SAID.train[0], SAID.train[1])
LENGTHS = (4, 6, 3)


def told(contract: DemoContract = CONTRACT) -> DemoContract:
    """The same of a task that is told in words."""
    field = instruction_field(TOKENIZER)
    words = (*contract.obs, (field.name, field.shape, field.dtype))
    return dataclasses.replace(
        contract,
        obs=tuple(sorted(words)),
        tokenizer=DemoContract.of("x", ObsSpec(fields=()), ACTION, language=LANGUAGE).tokenizer,
    )


def texts(contract: DemoContract) -> dict[bytes, str]:
    assert contract.task == "toy"
    return {tokens_of(TOKENIZER, text).tobytes(): text for text in SAID.train}


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Solved episodes that were told one thing, another, and the first again."""
    episodes = []
    for seed, (length, text) in enumerate(zip(LENGTHS, SAYING, strict=True)):
        data, last = numbers(length, seed), np.arange(length) == length - 1
        episode = {f"obs/{name}": data[name] for name, *_ in CONTRACT.obs}
        episode[f"obs/{INSTRUCTION}"] = np.tile(tokens_of(TOKENIZER, text), (length, 1))
        episode |= {"action": data["action"], "reward": last.astype("f4"), "terminated": last}
        episodes.append(episode | {"truncated": last & False, "expert": last | True})
    write_demonstrations(tmp_path / "demos.npz", stack_episodes(episodes), told())
    return tmp_path / "demos.npz"


def test_what_episodes_were_told_comes_back(demos: Path, tmp_path: Path):
    export_lerobot(demos, tmp_path / "set", texts=texts)
    rows = pq.read_table(tmp_path / "set/meta/tasks.parquet").to_pylist()
    assert [row["task"] for row in rows] == [SAID.train[1], SAID.train[0]]
    table = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    assert table["task_index"].to_pylist() == [0] * 4 + [1] * 6 + [0] * 3
    found = imported(tmp_path / "set", contract=told(), tokenizer=TOKENIZER)
    for episode, seed, text in zip(found.episodes, range(3), SAYING, strict=True):
        wanted = np.tile(tokens_of(TOKENIZER, text), (LENGTHS[seed], 1))
        np.testing.assert_array_equal(episode[f"obs/{INSTRUCTION}"], wanted)
        assert episode[f"obs/{INSTRUCTION}"].dtype == np.int32
        data = numbers(LENGTHS[seed], seed)
        np.testing.assert_array_equal(episode["obs/position"], data["position"])
    # A task that reads no words takes the same numbers.
    assert INSTRUCTION not in str(imported(tmp_path / "set").episodes[0].keys())


def test_one_thing_may_be_said_of_all(demos: Path, tmp_path: Path):
    export_lerobot(demos, tmp_path / "set", words="lift it", texts=texts)
    found = imported(tmp_path / "set", contract=told(), tokenizer=TOKENIZER)
    wanted = tokens_of(TOKENIZER, "lift it")
    assert all((episode[f"obs/{INSTRUCTION}"] == wanted).all() for episode in found.episodes)
    with pytest.raises(ValueError, match="told what its task does not say; allowed: with --words"):
        export_lerobot(demos, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_datasets_that_say_nothing_need_words(demos: Path, tmp_path: Path):
    export_lerobot(demos, tmp_path / "set", texts=texts)
    file = tmp_path / "set/meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).drop(["tasks"]), file)
    with pytest.raises(ValueError, match="does not say what was done; allowed: --words"):
        imported(tmp_path / "set", contract=told(), tokenizer=TOKENIZER)
    found = imported(tmp_path / "set", contract=told(), tokenizer=TOKENIZER, words="lift it")
    assert found.episodes[0][f"obs/{INSTRUCTION}"][0, 0] == 3 + ord("l")
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="is no LeRobotDataset v3.0 that can be read"):
        imported(tmp_path / "set")


def test_demonstrations_of_another_tokenizer_are_noticed():
    other = Language(tokenizer=TokenizerConfig(slots=32), instruction="x")
    spec = ObsSpec(fields=(*NUMBERS, FRONT))
    mine, theirs = (DemoContract.of("toy", spec, ACTION, language=x) for x in (LANGUAGE, other))
    assert mine.mismatches(theirs) == [
        "tokenizer of the instructions: another one in the demonstrations"
    ]
    # What does not say it is from before there were words.
    assert DemoContract.of("toy", spec, ACTION).mismatches(mine) == []


# -- ManiSkill-GS's ------------------------------------------------------------------------------

THIRD = ObsField(name="third", shape=(16, 16, 3), dtype="uint8")
SEEN = tuple(field for field in OBS_PLATE.fields if not field.privileged)
PLATE = DemoContract.of(
    "franka/put_cube_on_plate", ObsSpec(fields=(*SEEN, THIRD)), PUT.control.action_spec()
)


def carried(length: int, seed: int, *, solved: bool = True) -> dict[str, np.ndarray]:
    """An episode in which the gripper opens, closes and stays closed."""
    rng, last = np.random.default_rng(seed), np.arange(length) == length - 1
    episode = {
        f"obs/{field.name}": rng.normal(size=(length, *field.shape)).astype("f4") for field in SEEN
    }
    grey = np.uint8(10 * np.arange(length))[:, None, None, None]
    episode["obs/third"] = np.broadcast_to(grey, (length, *THIRD.shape)).copy()
    action = rng.uniform(-1, 1, (length, 7)).astype("f4")
    action[:, 6] = np.where(np.arange(length) < length // 2, -1.0, 1.0)
    closure = np.zeros(length + 1, "f4")
    for step in range(length):
        closure[step + 1] = np.clip(closure[step] + action[step, 6], 0.0, 1.0)
    episode["obs/gripper_command"] = closure[:-1, None]
    ends = {"terminated": last & solved, "truncated": last & (not solved)}
    paid = {"reward": (last & solved).astype("f4"), "expert": last | True}
    return episode | {"action": action} | ends | paid


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """A dataset as theirs, of two solved episodes and one that was not."""
    root = tmp_path_factory.mktemp("gs")
    episodes = [carried(5, 0), carried(6, 1, solved=False), carried(4, 2)]
    write_demonstrations(root / "demos.npz", stack_episodes(episodes), PLATE)
    assert export_lerobot(root / "demos.npz", root / "set", form="gsenv") == (2, 9)
    return root / "set", [episodes[0], episodes[2]]


def test_features_are_theirs(theirs):
    """Reference vla_and_real2sim.md 1.3."""
    folder, _ = theirs
    info = json.loads((folder / "meta/info.json").read_text())
    features, index = info["features"], {"timestamp", "frame_index", "episode_index", "index"}
    assert set(features) - index == {
        *("observation.image", "observation.state", "actions", "task_index"),
    }
    image, state, actions = (
        features[name] for name in ("observation.image", "observation.state", "actions")
    )
    assert (image["dtype"], image["shape"]) == ("video", [16, 16, 3])
    assert (state["dtype"], state["shape"]) == ("float32", [9])
    assert (actions["dtype"], actions["shape"]) == ("float32", [7])
    assert (info["fps"], info["total_tasks"], info["codebase_version"]) == (10, 1, "v3.0")
    assert (folder / "videos/observation.image/chunk-000/file-000.mp4").is_file()
    (task,) = pq.read_table(folder / "meta/tasks.parquet").to_pylist()
    assert task == {"task_index": 0, "task": "pick up the cube and put it on the plate"}


def test_our_reader_has_them_back(theirs):
    folder, episodes = theirs
    names = frozenset(("observation.image", "observation.state", "actions"))
    for found, own in zip(open_lerobot(folder).episodes(names), episodes, strict=True):
        state, shown = found.columns["observation.state"], found.columns["observation.image"]
        np.testing.assert_array_equal(state[:, :7], own["obs/joint_position"])
        width = own["obs/gripper_width"]
        np.testing.assert_array_equal(state[:, 7:], np.tile(0.5 * width, 2))
        grey = own["obs/third"].mean((1, 2, 3))
        np.testing.assert_allclose(shown.mean((1, 2, 3)), grey, atol=2)
        assert found.task == "pick up the cube and put it on the plate"


def test_their_actions_do_in_our_world_what_ours_did(theirs):
    """Back through the adapter by which their environment's actions are taken here."""
    folder, episodes = theirs
    translate = ANCESTORS["GSEnv-PutCubeOnPlate-v0"].translate
    names = frozenset(("actions",))
    for found, own in zip(open_lerobot(folder).episodes(names), episodes, strict=True):
        for step, action in enumerate(found.columns["actions"]):
            assert np.abs(action[:6]).max() <= 0.1
            closed = own["obs/gripper_command"][step, 0]
            state = SimpleNamespace(command=SimpleNamespace(gripper=closed))
            ours, before = np.asarray(translate(None, state, action)), own["action"][step]
            np.testing.assert_allclose(ours[:6], before[:6], atol=1e-6)
            wanted = np.clip(closed + before[6], 0.0, 1.0)
            np.testing.assert_allclose(np.clip(closed + ours[6], 0.0, 1.0), wanted, atol=1e-6)


def test_demonstrations_of_something_else_are_refused(demos: Path, tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        export_lerobot(demos, tmp_path / "set", form="gsenv", texts=texts)
    lines = str(caught.value).splitlines()
    assert "observation 'joint_position': none such, wanted: float32[7]" in lines[0]
    assert any("record with --cameras third" in line for line in lines)
    assert any("actions x, y, z, gripper on the target, wanted: x, y, z, rx" in x for x in lines)
