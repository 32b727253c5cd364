"""What the bridge asks of a policy, and the policy of a bundle run by onnxruntime."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.manifest import ACTIONS_OUTPUT, NOISE_INPUT
from scenes.contract.specs import ObsField, ObsSpec

# onnxruntime's names of the dtypes that observations come in.
_TENSORS = {"float32": "tensor(float)", "uint8": "tensor(uint8)", "int32": "tensor(int32)"}


class Policy(Protocol):
    """Anything that answers observations with actions."""

    def reset(self) -> None:
        """Forget the episode so far."""
        ...

    def act(self, obs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return actions [H, A] in [-1, 1], the first for now, for one observation.

        Raises ValueError for an observation that is not what the policy was trained on.
        """
        ...


class Standing:
    """A policy that wants nothing: no motion, and the gripper as it is.

    One action at a time, whatever the bundle's policy gives, so that each of a person's is kept
    with what is seen just then.

    Args:
        action_dim: A of its answer, [1, A].
    """

    def __init__(self, action_dim: int) -> None:
        self._nothing = np.zeros((1, action_dim), np.float32)

    def reset(self) -> None:
        """Nothing."""

    def act(self, obs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Zeros [1, A]."""
        del obs
        return self._nothing


class OnnxPolicy:
    """A policy.onnx on one CPU thread: what else runs on a robot's computer keeps its cores.

    Args:
        model: the bytes of the file.
        obs: the contract's; field by field the model's inputs, each with a leading axis of 1.
        horizon, action_dim: H and A of the output.
        noisy: the model has another input, "noise" [1, H, A].

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: onnxruntime refuses the model, or its inputs or output are others.
    """

    def __init__(
        self,
        model: bytes,
        obs: ObsSpec,
        *,
        horizon: int,
        action_dim: int,
        noisy: bool = False,
    ) -> None:
        self._fields = obs.fields
        self._shape = [1, horizon, action_dim]
        self._noise = {NOISE_INPUT: ("tensor(float)", self._shape)} if noisy else {}
        self._session = start_session(model)
        self._check_inputs()
        self._check_output(self._shape)

    def reset(self) -> None:
        """Nothing: the policy sees one observation at a time."""

    def act(
        self, obs: dict[str, NDArray[Any]], *, noise: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return actions [H, A]; one observation in, by name, without a leading axis.

        `noise` [H, A] is for a policy that is `noisy`.
        """
        if obs.keys() != {field.name for field in self._fields}:
            allowed = ", ".join(field.name for field in self._fields)
            raise InputError(f"Observation has {', '.join(obs) or 'nothing'}, allowed: {allowed}")
        batch = {field.name: _checked(field, obs[field.name])[None] for field in self._fields}
        if noise is not None:
            batch[NOISE_INPUT] = noise[None]
        return self._session.run([ACTIONS_OUTPUT], batch)[0][0]

    def _check_inputs(self) -> None:
        found = {i.name: (i.type, [*i.shape]) for i in self._session.get_inputs()}
        wanted = {f.name: (_TENSORS.get(f.dtype), [1, *f.shape]) for f in self._fields}
        wanted |= self._noise
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise InputError(
                    f"Input '{name}' of the model is {found.get(name, 'missing')}, the contract "
                    f"wants {wanted.get(name, 'none such')}"
                )

    def _check_output(self, shape: list[int]) -> None:
        found = [(o.name, o.type, [*o.shape]) for o in self._session.get_outputs()]
        wanted = [(ACTIONS_OUTPUT, "tensor(float)", shape)]
        if found != wanted:
            raise InputError(f"The model's outputs are {found}, allowed: {wanted}")


class SteerablePolicy:
    """A policy that others may steer by the noise that it starts from.

    Args:
        policy: acts where there is no noise in the observation.
        steered: acts where there is, as `NOISE_INPUT`.
        noise_shape: of that noise, [H, A].
    """

    def __init__(self, policy: Policy, steered: OnnxPolicy, noise_shape: tuple[int, int]) -> None:
        self._policy, self._steered, self.noise_shape = policy, steered, noise_shape

    def reset(self) -> None:
        """Forget the episode so far."""
        self._policy.reset()

    def act(self, obs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return actions [H, A], those that the noise is carried to where there is any."""
        noise = obs.get(NOISE_INPUT)
        if noise is None:
            return self._policy.act(obs)
        rest = {name: x for name, x in obs.items() if name != NOISE_INPUT}
        return self._steered.act(rest, noise=noise)


class StackingPolicy:
    """A policy of the last pictures that is shown those of one action after the other.

    Args:
        policy: takes `Contract.inputs`.
        cameras: names of the pictures that are stacked.
        stack: how many.
    """

    def __init__(self, policy: Policy, cameras: Sequence[str], stack: int) -> None:
        self._policy, self._cameras, self._stack = policy, tuple(cameras), stack
        self._seen: dict[str, list[NDArray[Any]]] = {}

    def reset(self) -> None:
        """Forget the episode so far: the next pictures are its first."""
        self._policy.reset()
        self._seen = {}

    def act(self, obs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return actions [H, A] for one observation, `Contract.obs`, without a leading axis.

        Raises ValueError for an observation that is not what the policy was trained on; it is not
        remembered.
        """
        shown = [name for name in self._cameras if name in obs]
        seen = {name: self._with_earlier(name, obs[name]) for name in shown}
        whole = {name: np.concatenate(frames, axis=-1) for name, frames in seen.items()}
        actions = self._policy.act(obs | whole)
        self._seen = seen
        return actions

    def _with_earlier(self, name: str, frame: NDArray[Any]) -> list[NDArray[Any]]:
        """The last frames, the oldest first; all of them the first where there are no others."""
        return [*self._seen.get(name, [frame] * self._stack)[1:], frame]


def _checked(field: ObsField, x: NDArray[Any]) -> NDArray[Any]:
    """Return `x`; ValueError where it is of another shape or dtype, or not finite."""
    if not isinstance(x, np.ndarray) or x.shape != field.shape or x.dtype != field.dtype:
        got = f"{x.dtype}{[*x.shape]}" if isinstance(x, np.ndarray) else type(x).__name__
        wanted = f"{field.dtype}{[*field.shape]}"
        raise InputError(f"Observation '{field.name}' is {got}, allowed: {wanted}")
    # A clip inside the policy could turn a NaN into an innocent number.
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise InputError(f"Observation '{field.name}' is not finite")
    return x


def start_session(model: bytes) -> Any:
    """An onnxruntime session on one CPU thread; InputError where it refuses the model."""
    onnxruntime = require("onnxruntime", "bridge", purpose="Running a policy")
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors are raised, the rest is of no use to an operator
    # onnxruntime's errors have no base class of their own.
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"onnxruntime refuses the model: {reason}") from error


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time from observation to actions [s]: median, 99th percentile and worst of `count` calls."""

    p50: float
    p99: float
    worst: float
    count: int


def measure_latency(
    policy: Policy, obs: dict[str, NDArray[Any]], *, count: int = 1000, warm_up: int = 20
) -> Latency:
    """Call a policy `count` times, one after the other, on the same observation."""
    times = np.empty(count)
    for _ in range(warm_up):
        policy.act(obs)
    for i in range(count):
        began = time.perf_counter()
        policy.act(obs)
        times[i] = time.perf_counter() - began
    p50, p99 = np.quantile(times, (0.5, 0.99))
    return Latency(p50=float(p50), p99=float(p99), worst=float(times.max()), count=count)
