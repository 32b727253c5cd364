"""Results travel whole, tables hold nothing else, ratios are medians of interleaved rounds."""

import dataclasses
import json

import pytest

from benchmarks.compare import Samples
from benchmarks.results import Ratio, Recorder, Result, load, measure_load, save
from benchmarks.table import finish, render

LOAD = {"busy_cores": 0.25, "loadavg": 1.0}
FIELDS = [
    "question",
    "name",
    "value",
    "unit",
    "params",
    "machine",
    "versions",
    "load",
    "date",
    "command",
    "ratio",
]


def recorder(question="physics"):
    return Recorder(question, command="python -m benchmarks.physics")


def add(rec, name, value=1234.5678, **changes):
    return rec.add(name, value, "env-steps/s", {"num_envs": 4}, load=LOAD, **changes)


def test_a_result_is_one_json_line_with_every_promised_field(capsys):
    add(recorder(), "native 4")
    printed = capsys.readouterr().out
    line = json.loads(printed)
    assert printed.count("\n") == 1
    assert list(line) == FIELDS
    assert line["value"] == 1234.6
    assert line["params"] == {"num_envs": 4}
    assert line["machine"]["cores"] >= 1
    assert {"python", "jax", "mujoco"} <= set(line["versions"])


def test_a_result_reads_back_as_it_was_written():
    ratio = Ratio(to="Batch", value=0.5, low=0.25, high=1.0, rounds=5, goal=0.75)
    result = add(recorder(), "ours", 2.0, ratio=ratio)
    assert Result.from_json(result.to_json()) == result


def test_a_line_with_a_missing_field_is_refused():
    line = json.loads(add(recorder(), "ours").to_json())
    del line["machine"]
    with pytest.raises(TypeError, match="machine"):
        Result.from_json(json.dumps(line))


def test_saving_replaces_a_questions_rows_and_keeps_the_others(tmp_path):
    path = tmp_path / "results.jsonl"
    old, other, new = recorder(), recorder("learner"), recorder()
    add(old, "stale")
    add(other, "sbx")
    add(new, "fresh")
    save(old.results + other.results, path)
    save(new.results, path)
    assert [r.name for r in load(path)] == ["sbx", "fresh"]


def test_a_missing_peer_is_a_row_with_its_reason():
    rec = recorder()
    rec.missing("envpool", "envpool does not install: no wheel")
    text = render(rec.results)
    assert rec.results[0].value is None
    assert "not measured" in text
    assert "reason envpool does not install: no wheel" in text


def test_the_table_says_machine_versions_command_ratio_and_goal(tmp_path):
    rec = recorder()
    ratio = Ratio(to="Batch", value=0.5, low=0.25, high=1.0, rounds=5, goal=0.75)
    result = add(rec, "ours", ratio=ratio)
    add(rec, "better", ratio=dataclasses.replace(ratio, value=0.75))
    finish(rec.results, tmp_path / "results.jsonl")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "`python -m benchmarks.physics`" in text
    assert f"jax {result.versions['jax']}" in text
    assert result.machine["os"] in text
    row = next(line for line in text.splitlines() if line.startswith("| ours"))
    assert "| 1,235 | env-steps/s | 0.50 (0.25 to 1.00) | Batch | 0.75 missed | 0.2 |" in row
    better = next(line for line in text.splitlines() if line.startswith("| better"))
    assert "0.75 met" in better


def test_every_row_of_the_table_has_the_same_columns():
    rec = recorder()
    add(rec, "a|b")
    rec.missing("c", "x | y")
    rows = [line for line in render(rec.results).splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1


def test_the_ratio_is_the_median_over_rounds_not_of_medians():
    # Both slow down together in round two, as when something else runs: the ratio stays 2.
    samples = Samples({"ours": [20.0, 2.0, 30.0], "theirs": [10.0, 1.0, 10.0]}, LOAD)
    ratio = samples.ratio("ours", "theirs", goal=1.5)
    assert ratio == Ratio(to="theirs", value=2.0, low=2.0, high=3.0, rounds=3, goal=1.5)


def test_no_ratio_where_one_side_is_missing():
    assert Samples({"ours": [1.0]}, LOAD).ratio("ours", "theirs") is None


def test_load_counts_what_keeps_cores_busy():
    load = measure_load(0.05)
    assert load["busy_cores"] >= 0.0
    assert load["loadavg"] >= 0.0
