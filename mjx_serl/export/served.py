"""A run's policy for a server of policies: JAX on any device, many clients at once."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from mjx_serl.envs.observation import Observer
from mjx_serl.export.bundle import Act, flat_explorer, flat_policy
from mjx_serl.training.state import PolicyParams
from mjx_serl.training.trainer import Trainer
from scenes.contract.errors import InputError
from scenes.contract.manifest import NOISE_INPUT

HostObs = dict[str, NDArray[Any]]


class ServedPolicy:
    """The deterministic policy; a batch is filled up to one of a few sizes, each compiled once.

    What the agent learned with (`compute_dtype`) is what it is served with. Observations are those
    of the contract without a leading axis, pictures themselves where an encoder is frozen.

    Attributes:
        horizon: actions of an answer.
        noise_shape: of the noise [H, A] that a client may choose; None where the agent has none.

    Args:
        trainer: of the run.
        observer: of the run.
        params: of the policy.
        most: observations of a batch.
    """

    def __init__(
        self, trainer: Trainer, observer: Observer, params: PolicyParams, *, most: int = 64
    ) -> None:
        self._fields = observer.contract.inputs.fields
        self._most = most
        self._act = _jitted(*flat_policy(trainer, observer, params))
        self.horizon = trainer.horizon
        shape = (trainer.horizon, observer.env.action_dim)
        self._explore = _explorer(trainer, observer, params, self._blank(1), shape)
        self.noise_shape = None if self._explore is None else shape

    def reset(self) -> None:
        """Nothing: it sees one observation at a time."""

    def act(self, obs: HostObs) -> NDArray[np.float32]:
        """Return actions [H, A] for one observation."""
        return self.act_batch([obs])[0]

    def act_batch(self, obs: Sequence[HostObs]) -> Sequence[NDArray[np.float32]]:
        """Return actions [H, A] for each, from the noise that is beside an observation if any is.

        Raises InputError for more than `most`.
        """
        if len(obs) > self._most:
            raise InputError(f"{len(obs)} observations at once, allowed: up to {self._most}")
        steered = [NOISE_INPUT in one for one in obs]
        answers: dict[int, NDArray[np.float32]] = {}
        for noisy, act in ((False, self._act), (True, self._explore)):
            places = [i for i, is_steered in enumerate(steered) if is_steered is noisy]
            if places and act is not None:
                actions = self._answered(act, [obs[i] for i in places])
                answers |= dict(zip(places, actions, strict=True))
        return [answers[i] for i in range(len(obs))]

    def warm_up(self) -> None:
        """Compile every size, so that no client waits for it."""
        for size in self.sizes:
            self.act_batch(self._blank(size))
            if self.noise_shape is not None:
                noise = np.zeros(self.noise_shape, np.float32)
                self.act_batch([one | {NOISE_INPUT: noise} for one in self._blank(size)])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of batches that are compiled: powers of two, and the largest."""
        powers = itertools.takewhile(lambda n: n < self._most, (2**i for i in itertools.count()))
        return (*powers, self._most)

    def _answered(self, act: Callable[..., Any], obs: Sequence[HostObs]) -> NDArray[np.float32]:
        size = next(n for n in self.sizes if n >= len(obs))
        filled = [*obs, *[obs[-1]] * (size - len(obs))]
        batch = {name: np.stack([one[name] for one in filled]) for name in obs[0]}
        return np.asarray(act(batch), np.float32)[: len(obs)]

    def _blank(self, count: int) -> list[HostObs]:
        return [{f.name: np.zeros(f.shape, f.dtype) for f in self._fields}] * count


def _jitted(act: Act, arrays: dict[str, np.ndarray]) -> Callable[..., Any]:
    on_device = jax.device_put(arrays)
    compiled = jax.jit(act)
    return lambda batch: compiled(on_device, batch)


def _explorer(
    trainer: Trainer,
    observer: Observer,
    params: PolicyParams,
    blank: list[HostObs],
    shape: tuple[int, int],
) -> Callable[..., Any] | None:
    """What carries chosen noise to actions; None of an agent that starts from none."""
    try:
        act, arrays = flat_explorer(trainer, observer, params)
        batch = {name: x[None] for name, x in blank[0].items()}
        jax.eval_shape(act, arrays, batch | {NOISE_INPUT: np.zeros((1, *shape), np.float32)})
    except InputError:
        return None
    return _jitted(act, arrays)
