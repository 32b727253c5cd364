"""Many devices: they take the same steps, lose nothing, and exchange gradients and no more."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from toy_env import ToyEnv

from benchmarks.collectives import collectives_of
from mjx_serl.config import ActorsConfig, PilotConfig, TrainConfig
from mjx_serl.envs.observation import Observer
from mjx_serl.platform import cpu_devices, prepare_platform
from mjx_serl.run.resume import allowed_changes
from mjx_serl.training.on_policy import OnPolicyConfig, OnPolicyLoopConfig
from mjx_serl.training.sharded import over_devices
from mjx_serl.training.sharing import check_divides
from scenes.contract.errors import InputError

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What a process with two devices finds."""
    paths = {"PYTHONPATH": f"{HERE.parents[1]}:{HERE.parent}"}
    ran = subprocess.run(
        [sys.executable, HERE / "on_two_devices.py"],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | paths,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


@pytest.mark.parametrize("method", ["off_policy", "on_policy", "chunks"])
def test_devices_stay_the_same_and_runs_can_be_repeated_and_resumed(found, method):
    told = found[method]
    assert told["torn"] == [] and told["tells"] == ["normalizer/count"]
    assert told["repeated"] and told["resumed"]
    # Of the state on both, one device and two have the same.
    assert told["kept"] == [True, True] and told["on_one_device"]


def test_an_off_policy_epoch_exchanges_gradients_and_no_more(found):
    told = found["off_policy"]
    critic, actor = told["sizes"]["critic"], told["sizes"]["actor"]
    inside = [x for x in told["collectives"] if x[3] > 0]
    # 15 updates, in each two steps of the critics, and one of the actor and the temperature.
    assert sorted(inside) == sorted(
        [["all-reduce", critic, 15, 2]] * 2 + [["all-reduce", actor + 4, 15, 2]]
    )
    outside = [x for x in told["collectives"] if x[3] == 0]
    assert len(outside) <= 4 and sum(x[1] for x in outside) < 200


def test_an_on_policy_epoch_exchanges_gradients_and_no_more(found):
    told = found["on_policy"]
    inside = [x for x in told["collectives"] if x[3] > 0]
    # With the gradient of each of 12 steps how far the policy has moved.
    assert inside == [["all-reduce", told["sizes"]["policy"] + 4, 12, 1]]
    outside = [x for x in told["collectives"] if x[3] == 0]
    assert len(outside) <= 7 and sum(x[1] for x in outside) < 400
    assert 0 < told["metrics"]["actor/updates"] < 12  # both stopped at the same one


def test_two_devices_find_what_one_would(found):
    assert all(difference < 3e-6 for difference in found["parity"].values()), found["parity"]
    assert found["off_policy"]["starts_as_one"] and found["off_policy"]["plays_as_one"]
    assert found["physics"] == 0.0


def test_large_parameters_are_held_together(found):
    told = found["held_together"]
    assert told["starts_as_plain"] and told["shares"] == [0.5]
    cut, every, each = told["cut"]
    # Of parameters and their moments a device holds half, but for vectors.
    assert cut > 0.85 * every and each == every - cut / 2
    assert told["off"] < 1e-6 and told["plays_as_one"]
    assert told["kept"] == [True] * 3 and told["resumed"]
    assert told["taught"]["moved"] > 1e-6 and told["taught"]["in_place"]


def test_parameters_held_together_are_gathered_and_their_gradients_scattered(found):
    told = found["held_together"]
    cut, every = told["params"]
    each = {kind: [x for x in told["inside"] if x[0] == kind] for kind, _, _ in told["inside"]}
    assert set(each) == {"all-gather", "reduce-scatter", "all-reduce"}
    # In each of 4 updates every gradient is summed once, where its part is.
    assert all(times == 4 for _, _, times in told["inside"])
    assert sum(size for _, size, _ in each["reduce-scatter"]) == cut / 2
    # Of the rest all is; and numbers: how far the policy has moved, three norms, whether all is
    # finite, and in each of 4 choices whether a time-out is to be valued.
    assert sum(size for _, size, _ in each["all-reduce"]) == every - cut + 6 * 4
    # What is gathered: for the loss, and again for its gradient.
    assert cut <= sum(size for _, size, _ in each["all-gather"]) <= 2 * cut


def test_worlds_apart_from_the_policy_make_an_epoch_of_one_device(found):
    told = found["placed"]
    assert told["in_place"] and told["kept"] and told["names"]
    assert max(told["differ"]) < 1e-6, told["differ"]
    assert told["resumed"] and told["repeated"]


def test_sums_over_worlds_are_of_all_of_them(found):
    told = found["off_policy"]
    assert told["usable"][0] == told["usable"][1]
    assert told["metrics"]["buffer/size"] == told["size"]
    assert told["metrics"]["episode/count"] % 1 == 0
    assert told["actions_differ"]
    # 3 were counted before, and the numbers 0 to 7 are; each step moved by all, and counts once.
    assert found["counts"]["growth"] == [31.0, 31.0] and found["counts"]["tested"] == [31, 0]
    # World 6 is on the second device, and both know of it.
    assert found["counts"]["bad"] == [[True, 6, 2.5]] * 2


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(InputError, match=r"num-envs 6, .* allowed with these: 1, 2, 3, 6$"):
        check_divides(4, {"--num-envs": 6, "--loop.batch-size": 12})
    check_divides(3, {"--num-envs": 6, "--loop.batch-size": 12})
    method = OnPolicyConfig(loop=OnPolicyLoopConfig(rollout_steps=3, minibatches=6))
    trainer = method.build(Observer(ToyEnv()), num_envs=6)
    with pytest.raises(InputError, match="minibatches 6, allowed: what divides 9"):
        trainer.part(2)
    there = len(jax.local_devices())
    with pytest.raises(InputError, match=f"--devices 64 .*allowed: 1 to {there}"):
        over_devices(trainer, 64)
    assert over_devices(trainer, 1) is trainer


@pytest.mark.parametrize(
    "beside", [{"pilot": PilotConfig(serve=True)}, {"actors": ActorsConfig(address="127.0.0.1:1")}]
)
def test_people_and_arms_elsewhere_take_one_device(beside):
    with pytest.raises(InputError, match="--devices 2 with --(pilot|listen), allowed: 1"):
        TrainConfig(devices=2, **beside).check()
    with pytest.raises(InputError, match="devices 0, allowed: at least 1"):
        TrainConfig(devices=0).check()


def test_a_resumed_run_may_have_another_number_of_devices():
    [change] = allowed_changes(TrainConfig(devices=4), TrainConfig())
    assert str(change) == "--devices 1 (was 4)"
    [change] = allowed_changes(TrainConfig(), TrainConfig(devices=2))
    assert str(change) == "--devices 2 (was 1)"


def test_a_cpu_becomes_as_many_devices_as_are_asked_for(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"devices": 4}')
    assert cpu_devices(devices=None, run=tmp_path) == 4
    assert cpu_devices(devices="2", run=tmp_path) == 2
    assert cpu_devices(devices="auto") == cpu_devices(devices=None) == 1
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    monkeypatch.setenv("NPROC", "1")  # so that what is set here is undone
    monkeypatch.delenv("NPROC")
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "jax")
    prepare_platform(cpu_devices=4)
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_dump_to=/nowhere",
        "--xla_force_host_platform_device_count=4",
    ]
    assert int(os.environ["NPROC"]) >= 8


def test_loops_and_branches_are_counted():
    hlo = """
HloModule two
%body (p: (s32[], f32[3])) -> (s32[], f32[3]) {
  %g = f32[3]{0} all-reduce(%x), channel_id=1, to_apply=%add, metadata={op_name="psum"}
}
%cond (p: (s32[], f32[3])) -> pred[] {
  ROOT %c = pred[] compare(%a, %b), direction=LT
}
%branch (p: f32[2,2]) -> f32[2,2] {
  ROOT %g = (bf16[2,2]{1,0}, s32[]) all-gather-start(%x, %y), dimensions={0}
}
ENTRY %main (s: f32[3]) -> f32[3] {
  %w = (s32[], /*index=1*/f32[3]{0}) while(%t), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
  ROOT %k = f32[2,2] conditional(%i, %t, %f), branch_computations={%branch, %branch}
}
""".replace("\\\n", "")
    loop, *branches = collectives_of(hlo)
    assert (loop.kind, loop.nbytes, loop.times, loop.source) == ("all-reduce", 12, 7, "psum")
    assert [(x.kind, x.nbytes, x.times) for x in branches] == [("all-gather", 12, 1)] * 2
