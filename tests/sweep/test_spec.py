"""What a file stands for, and what is refused before anything starts."""

import re
from pathlib import Path

import pytest

from mjx_serl.seeds import SeedRuns
from mjx_serl.sweep.plan import planned
from mjx_serl.sweep.spec import Spec, read_spec
from scenes.contract.errors import UserError

Q = "seeds = [0]\n"
SPACE = Q + "[search]\ntrials = 3\n[search.space]\n"


def read(folder: Path, text: str) -> Spec:
    file = folder / "rates.toml"
    file.write_text(text)
    return read_spec(file)


def test_a_file_stands_for_each_combination(tmp_path: Path):
    spec = read(
        tmp_path,
        """
        seeds = "2..4"
        [base]
        preset = "laptop"
        num_envs = 4
        pixels.cameras = ["front", "wrist"]
        run.bundle = false
        plugin = ["mine", "yours"]
        [grid]
        agent.lr = [3e-4, 6e-4]
        task = ["franka/pick_cube", "franka/peg_insertion"]
        [variants.plain]
        [variants.tuned]
        num-envs = 8
        agent.target_entropy = -3.0
        """,
    )
    assert spec.seeds == (2, 3, 4) and spec.folder == Path("runs/rates")
    names = [variant.name for variant in spec.variants]
    assert names[0] == "plain,agent.lr=0.0003,task=franka-pick_cube" and len(set(names)) == 8
    assert spec.variants[0].over_tasks == spec.variants[1].over_tasks == "plain,agent.lr=0.0003"
    assert spec.variants[-1].words() == [
        "--preset=laptop",
        "--num-envs=8",
        *("--pixels.cameras", "front", "wrist"),
        "--run.no-bundle",
        "--plugin=mine",
        "--plugin=yours",
        "--agent.target-entropy=-3.0",
        "--agent.lr=0.0006",
        "--task=franka/peg_insertion",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seeds = [", "rates.toml is not TOML: "),
        ("seed = 1", "Unknown key of a sweep 'seed'. Did you mean 'seeds'?"),
        ("[base]", 'seeds None, allowed: "0..7" or a list of numbers'),
        ('seeds = "7..0"', "seeds [], allowed: "),
        ('seeds = "0..10000"', "seeds 0..10000, allowed: 10,000 runs"),
        ("seeds = [1, 1]", "seeds [1, 1], allowed: each of them once"),
        ("seeds = [-1]", "seed -1, allowed: 0 to 4294967295"),
        (Q + "[base]\nrun.name = 'x'", "base: run.name, which the sweep says to each run itself"),
        (Q + "[base]\nagent.lr = 1\n'agent.lr' = 2", "base: agent.lr twice, allowed: once"),
        (
            Q + "[base]\ntask = 2026-01-01",
            "base: task datetime.date(2026, 1, 1), allowed: ",
        ),
        (Q + "[grid]\nagent.lr = 1", "grid: agent.lr 1, allowed: a list of values"),
        (Q + "[grid]\nagent.lr = [1, 1]", "grid: agent.lr [1, 1], allowed: each value once"),
        (Q + "[variants.'../x']", "variant '../x', allowed: up to 150 letters"),
        (Q + "[grid]\nx = [1]\n[variants.a]\nx = 2", "x is in variants.a and in grid"),
        (Q + "[grid]\nx = ['a/b', 'a-b']", "two variants are called 'x=a-b'"),
        (Q + "[search]\ntrial = 3", "Unknown key of a search 'trial'. Did you mean 'trials'?"),
        (Q + "[search]\ntrials = 20_000", "search.trials 20000, allowed: 1 to 10000"),
        (Q + "[search]\ntrials = 3", "search without [search.space], allowed: one option or more"),
        (Q + "[grid]\n[search]\ntrials = 3", "search and grid, allowed: one of them"),
        (SPACE + "x = 3", "search.space: x 3, allowed: a list of values"),
        (SPACE + "x = {low = 2, high = 1}", "search.space: x: low 2, high 1, log False, allowed: "),
        (SPACE + "x.y = {low = 1, high = 2, step = 1}", "search.space: x.y: step, allowed: low"),
        (SPACE + "seed = [1, 2]", "search.space: seed, which the sweep says to each run itself"),
        (SPACE + "x = [1]\n[base]\nx = 2", "x is in base and in search.space, allowed: one of"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, text: str, line: str):
    with pytest.raises(UserError, match=re.escape(line)) as raised:
        read(tmp_path, text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[base]\ntask = 'franka/pick_cub'", "variant 'base': Unknown task 'franka/pick_cub'. Did"),
        ("[grid]\nagent.gamma = [0.9, 1.5]", "variant 'agent.gamma=1.5': agent.gamma 1.5, allowed"),
        ("[variants.a]\n[variants.b]\nseed-x = 1", "--seed-x"),
        ("[variants.a]\n[variants.b]\nnum-envs = 16", "variants 'a' and 'b' are the same runs"),
    ],
)
def test_options_are_refused_as_train_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: str
):
    spec = read(tmp_path, Q + text.replace("[base]", "[base]\npreset = 'laptop'"))
    with pytest.raises((UserError, SystemExit)) as raised:
        planned(spec)
    said = str(raised.value) + capsys.readouterr().err
    assert line in said and "variant" in said


def test_a_variant_that_has_runs_cannot_become_another(tmp_path: Path):
    text = f"folder = '{tmp_path}/kept'\nseeds = [0]\n[variants.a]\npreset = 'laptop'\nnum-envs = "
    cfg = planned(read(tmp_path, text + "4"))["a"]
    group = SeedRuns(tmp_path / "kept" / "a", cfg, (0,))
    (group.path / "seed-0").mkdir(parents=True)
    group._write()
    planned(read(tmp_path, text + "8"))  # nothing has begun
    (group.path / "seed-0" / "config.json").write_text("{}")
    planned(read(tmp_path, text.replace("[0]", "[1, 0]") + "4"))  # seeds may be added
    line = "variant 'a' has runs that were begun otherwise: --num-envs 8 (was 4). Hint: "
    with pytest.raises(UserError, match=re.escape(line)):
        planned(read(tmp_path, text + "8"))
