"""The loop that fits a network to examples: many updates in one compiled call."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, Int

from mjx_serl.types import PRNGKey, PyTree

CHUNK = 250  # updates per compiled call and progress line
Init = Callable[[PRNGKey], PyTree]
Fit = Callable[..., tuple[PyTree, Float[Array, ""]]]


def make_fit(
    init_params: Init,
    loss: Callable[[PyTree, Any, PRNGKey], Float[Array, ""]],
    optimizer: optax.GradientTransformation,
    draw: Callable[[PRNGKey, Any, int], Int[Array, "steps B"]],
) -> tuple[Init, Fit]:
    """Return init(key) -> state and fit(state, examples, key, steps) -> (state, mean loss).

    Args:
        init_params: draws parameters, the first part of the state.
        loss: of parameters and a batch of examples; its key is for augmentation.
        optimizer: of the parameters.
        draw: rows of the examples for so many updates.
    """

    def init(key: PRNGKey) -> PyTree:
        params = init_params(key)
        return params, optimizer.init(params)

    def update(
        examples: Any, state: PyTree, xs: tuple[Array, PRNGKey]
    ) -> tuple[PyTree, Float[Array, ""]]:
        (params, opt_state), (pick, key) = state, xs
        batch = jax.tree.map(lambda x: x[pick], examples)
        value, grads = jax.value_and_grad(loss)(params, batch, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    def fit(
        state: PyTree, examples: Any, key: PRNGKey, steps: int
    ) -> tuple[PyTree, Float[Array, ""]]:
        keys = jax.random.split(jax.random.fold_in(key, 1), steps)
        picks = draw(key, examples, steps)
        state, losses = jax.lax.scan(partial(update, examples), state, (picks, keys))
        return state, losses.mean()

    return init, jax.jit(fit, static_argnums=3, donate_argnums=0)


def run_fit(
    init: Init,
    fit: Fit,
    examples: Any,
    *,
    updates: int,
    key: PRNGKey,
    report: Callable[[int, float, PyTree], None],
) -> PyTree:
    """Return the parameters after `updates`, in whole chunks; `report(done, loss, params)`."""
    state = init(key)
    for done in range(CHUNK, updates + 1, CHUNK):
        state, loss = fit(state, examples, jax.random.fold_in(key, done), CHUNK)
        report(done, float(loss), state[0])
    return state[0]
