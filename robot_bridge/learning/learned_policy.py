"""A policy whose parameters a learner replaces while it acts."""

import collections
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.network.parameters import Arrays, Parameters
from robot_bridge.policy.onnx_weights import weight_places, with_weights
from robot_bridge.policy.policy import OnnxPolicy
from scenes.contract.errors import InputError
from scenes.contract.specs import ObsSpec

_REMEMBERED = 32  # observations on which a version is compared with the one before


class LearnedPolicy:
    """Acts as in training, noise included, by the newest parameters that were good enough to take.

    A version is compared with the one in use on the last observations, with the same noise: where
    its actions are further away than `jump`, it is refused, and so are arrays of other names,
    shapes or values that are not finite.

    Attributes:
        version: of the parameters in use, -1 for those that came with the policy.
        refused: versions that were not taken.

    Args:
        model: an ONNX file that maps observations and "noise" to actions.
        base: its parameters by name.
        obs: what is observed.
        horizon, action_dim: H and A of the output.
        jump: mean absolute change of actions in [-1, 1] that one version may make; 2 allows any.
        noisy: act with noise; else as the mean does.
        seed: of the noise.
    """

    def __init__(
        self,
        model: bytes,
        base: Mapping[str, NDArray[Any]],
        obs: ObsSpec,
        *,
        horizon: int,
        action_dim: int,
        jump: float = 2.0,
        noisy: bool = True,
        seed: int = 0,
    ) -> None:
        self.version, self.refused = -1, 0
        self._model, self._base, self._obs = model, dict(base), obs
        self._places = weight_places(model)
        self._shape = (horizon, action_dim)
        self._jump, self._noisy = jump, noisy
        self._rng = np.random.default_rng(seed)
        self._seen: collections.deque[tuple[dict[str, NDArray[Any]], NDArray[np.float32]]]
        self._seen = collections.deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()
        self._policy = self._made({})

    def reset(self) -> None:
        """Nothing: the policy sees one observation at a time."""

    def act(self, obs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return actions [H, A]; as `Policy.act`."""
        noise = np.zeros(self._shape, np.float32)
        if self._noisy:
            noise = self._rng.standard_normal(self._shape, np.float32)
        actions = self._policy.act(obs, noise=noise)
        with self._lock:
            self._seen.append((obs, noise))
        return actions

    def take(self, parameters: Parameters) -> str | None:
        """Put a version into use; returns why not, None where it is.

        Another thread may call it while the policy acts: a version is made ready before it takes
        the other's place.
        """
        if parameters.version <= self.version:
            return None
        try:
            policy = self._made(parameters.arrays)
            moved = self._moved(policy)
        except InputError as error:
            return self._refuse(parameters, str(error))
        if not moved <= self._jump:
            what = f"its actions are {moved:.2f} from the last version's, allowed: {self._jump:g}"
            return self._refuse(parameters, what)
        self._policy, self.version = policy, parameters.version
        return None

    def _refuse(self, parameters: Parameters, why: str) -> str:
        self.refused += 1
        return f"version {parameters.version} is not taken: {why}"

    def _made(self, arrays: Arrays) -> OnnxPolicy:
        """The policy with other parameters; InputError where they are not its own."""
        for name, x in arrays.items():
            own = self._base.get(name)
            if own is None or (own.shape, own.dtype) != (x.shape, x.dtype):
                wanted = "none such" if own is None else f"{own.dtype}{[*own.shape]}"
                raise InputError(f"'{name[:80]}' is {x.dtype}{[*x.shape]}, allowed: {wanted}")
            if not np.isfinite(x).all():
                raise InputError(f"'{name[:80]}' is not finite")
        horizon, action_dim = self._shape
        model = with_weights(self._model, self._places, arrays)
        return OnnxPolicy(model, self._obs, horizon=horizon, action_dim=action_dim, noisy=True)

    def _moved(self, policy: OnnxPolicy) -> float:
        """Mean absolute difference of its actions from those of the policy in use."""
        with self._lock:
            seen = list(self._seen)
        changes = [
            np.abs(policy.act(obs, noise=noise) - self._policy.act(obs, noise=noise)).mean()
            for obs, noise in seen
        ]
        return float(np.mean(changes)) if changes else 0.0
