"""Ticks, observations and recordings as the bridge's loops would make them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robot_bridge.driver import ArmState, Mode, Target
from robot_bridge.messages import Goal, Tick
from robot_bridge.reasons import Phase, Reason
from robot_bridge.records.recorder import Recorder, RecordHeader
from scenes.contract.policy_contract import Contract, IkSpec
from scenes.contract.serialize import digest
from scenes.contract.specs import ActionSpec, CameraSpec, ObsField, ObsSpec
from scenes.robots import robot_named

ACTION = ActionSpec(
    mode="ee_delta", names=("x", "y", "z", "gripper"), scale=(0.025, 0.025, 0.025, 1.0), rate=10.0
)


def make_contract(*, size: tuple[int, int] | None = (24, 16)) -> Contract:
    """A contract of two numbers' fields and, with a `size` (width, height), one camera."""
    fields = [ObsField(name="ee_lag", shape=(3,)), ObsField(name="gripper_width", shape=(1,))]
    cameras = ()
    if size is not None:
        width, height = size
        fields.append(ObsField(name="front", shape=(height, width, 3), dtype="uint8"))
        pose = {"pos": (1.0, 0.0, 0.5), "quat": (1.0, 0.0, 0.0, 0.0)}
        cameras = (CameraSpec(name="front", fovy=45.0, width=width, height=height, **pose),)
    robot = robot_named("panda")
    return Contract(
        robot=robot,
        obs=ObsSpec(fields=tuple(fields)),
        action=ACTION,
        ik=IkSpec(rate=100.0, damping=1e-3, max_joint_step=0.1),
        home=robot.home,
        episode_steps=100,
        cameras=cameras,
    )


def make_header(contract: Contract, **changes: Any) -> RecordHeader:
    facts = {
        "bundle": "b" * 64,
        "contract": digest(contract),
        "limits": "c" * 64,
        "robot": contract.robot.name,
        "rate": contract.action.rate,
        "driver": "fake",
        "versions": {"numpy": np.__version__},
        "started": 1.5e9,
    }
    return RecordHeader(**facts | changes)


def make_tick(index: int, **changes: Any) -> Tick:
    """A tick whose every number depends on its index."""
    t = 1000.0 + index / 100
    state = ArmState(
        t=t - 0.001, seq=index, q=np.arange(7) + index, dq=np.full(7, 0.1), position=np.ones(3),
        quat=np.array([0.0, 1.0, 0.0, 0.0]), gripper_width=0.05, mode=Mode.MOVING,
        faults=("none", "at all"), link_quality=0.99, tau=np.zeros(7),
    )  # fmt: skip
    facts: dict[str, Any] = {
        "index": index,
        "t": t,
        "wall": 1.7e9 + t,
        "phase": Phase.RUN,
        "reasons": Reason.LEASH | Reason.RECORD_DROPPED,
        "state": state,
        "goal": Goal(position=np.ones(3), quat=state.quat, closure=0.5),
        "target": Target(position=np.ones(3), quat=state.quat, q=state.q + 0.01),
        "lateness": 1e-4,
        "part": 1,
    }
    return Tick(**facts | changes)


def make_obs(contract: Contract, number: int) -> dict[str, np.ndarray]:
    """An observation whose every value is its number."""
    return {f.name: np.full(f.shape, number, f.dtype) for f in contract.obs.fields}


def play(
    contract: Contract, steps: int, *, first: int = 0, by_hand: Mapping[int, float] | None = None
) -> Iterator[tuple[Tick, dict[str, np.ndarray] | None]]:
    """Ticks of an episode, armed before and after: step k is action (k + 1) / 100 of observation k.

    Every tenth tick plays an action; its observation came with the tick before. `by_hand` maps
    steps to the value of a person's action.
    """
    by_hand = by_hand or {}
    yield make_tick(first, phase=Phase.ARMED), None
    for i in range(10 * steps):
        step, facts = i // 10, {}
        if i % 10 == 1:
            wanted = np.full(4, (step + 1) / 100)
            facts = {"action": wanted, "source": "policy", "seq": step}
            if step in by_hand:
                facts |= {"action": np.full(4, by_hand[step]), "source": "operator"}
                facts["policy_action"] = wanted
        obs = make_obs(contract, step) if i % 10 == 0 else None
        yield make_tick(first + 1 + i, **facts), obs
    yield make_tick(first + 1 + 10 * steps, phase=Phase.ARMED), None


def record(
    path: Path,
    contract: Contract,
    endings: Mapping[int, str | None],
    *,
    by_hand: Mapping[int, float] | None = None,
) -> Path:
    """A recording with one episode of each length, ended by the event that `endings` says."""
    first = 0
    with Recorder(path, make_header(contract)) as recorder:
        for steps, event in endings.items():
            *played, after = play(contract, steps, first=first, by_hand=by_hand)
            for tick, obs in played:
                assert recorder.put(tick, obs)
            if event is not None:
                assert recorder.event(event)
            assert recorder.put(*after)
            first += len(played) + 1
    return path
