"""Learning from images: updates of DrQ with two cameras, or passes of one encoder alone.

Params: what, "updates" of DrQ from a replay buffer or "passes" forward and backward; encoder,
compute_dtype, batch, size [px], seconds; convolution: "chosen", or "library" for XLA's own.
"""

import time
from collections.abc import Callable
from typing import Any

from benchmarks.worker import Job, Params, rate, serve
from benchmarks.workers.platform import prepare
from benchmarks.workers.replay import random_transitions
from scenes.contract.specs import ActionSpec, ObsField, ObsSpec

CAMERAS = ("front", "wrist")
VECTOR_DIM = 20  # what franka/pick_cube shows of the arm
ACTION_DIM = 4
ACTION = ActionSpec(
    mode="ee_delta", names=("x", "y", "z", "gripper"), scale=(1.0,) * ACTION_DIM, rate=10.0
)
ROWS, WORLDS = 512, 8
REPEATS = 16  # in one compiled call, as in an epoch: memory is taken once


def start(params: Params) -> Job:
    """Compile what is measured and run it once."""
    prepare()
    import jax

    if params.get("convolution") == "library":
        from mjx_serl.nets import convolution

        convolution.convolve = convolution.by_library
    build = {"updates": updates, "passes": passes}[params["what"]]
    arguments, program = build(params)
    begun = time.perf_counter()
    compiled = jax.jit(program, donate_argnums=0).lower(*arguments).compile()
    facts = {"compile_seconds": round(time.perf_counter() - begun, 2)}

    def call() -> None:
        arguments[0] = jax.block_until_ready(compiled(*arguments))

    call()
    return Job(lambda: rate(call, REPEATS, params["seconds"]), facts)


def passes(params: Params) -> tuple[list[Any], Callable]:
    """Return [parameters, images] and steps down the gradient of the features' squares."""
    import jax
    import jax.numpy as jnp

    encoder = _config(params).build(compute_dtype=params["compute_dtype"])
    images = _images(jax.random.key(0), (params["batch"],), params["size"])
    weights = jax.jit(encoder.init)(jax.random.key(1), images)

    def step(weights: Any, images: Any) -> Any:
        grads = jax.grad(lambda w: jnp.mean(jnp.square(encoder.apply(w, images))))(weights)
        return jax.tree.map(lambda w, g: w - 1e-4 * g, weights, grads)

    def program(weights: Any, images: Any) -> Any:
        # Shifted by a pixel each time, or what does not change would be computed once.
        return jax.lax.fori_loop(
            0, REPEATS, lambda i, w: step(w, jnp.roll(images, i, axis=1)), weights
        )

    return [weights, images], program


def updates(params: Params) -> tuple[list[Any], Callable]:
    """Return [agent state, buffer state] and the function that makes `REPEATS` updates."""
    import jax

    from mjx_serl.agents.sac import SACConfig
    from mjx_serl.data.replay import ReplayBuffer

    agent = SACConfig(
        encoder=_config(params), compute_dtype=params["compute_dtype"], crop=params.get("crop", 4)
    ).build()
    buffer = ReplayBuffer(ROWS, WORLDS)
    steps = _steps(params["size"])
    example = jax.tree.map(lambda x: x[0, 0], steps)
    stored = jax.jit(lambda rows: buffer.add(buffer.init(example), rows))(steps)
    spec = ObsSpec(
        fields=tuple(
            ObsField(name=name, shape=x.shape, dtype=str(x.dtype))
            for name, x in example.obs.items()
        )
    )
    state = jax.jit(lambda key: agent.init(key, spec, ACTION))(jax.random.key(1))

    def update(state: Any, stored: Any) -> Any:
        k_sample, k_learn = jax.random.split(jax.random.fold_in(jax.random.key(2), state.step))
        return agent.update(state, buffer.sample(stored, k_sample, params["batch"]), k_learn)[0]

    def program(state: Any, stored: Any) -> Any:
        return jax.lax.fori_loop(0, REPEATS, lambda _, s: update(s, stored), state)

    return [state, stored], program


def _config(params: Params) -> Any:
    from mjx_serl.nets.encoders import EncoderConfig

    return EncoderConfig(name=params["encoder"], features=params.get("features", 256))


def _images(key: Any, lead: tuple[int, ...], size: int) -> Any:
    import jax
    import jax.numpy as jnp

    return jax.random.bits(key, (*lead, size, size, 3), jnp.uint8)


def _steps(size: int) -> Any:
    import jax

    k_rest, k_vector, *k_images = jax.random.split(jax.random.key(0), 2 + len(CAMERAS))
    lead = (ROWS, WORLDS)
    vector = {"state": jax.random.normal(k_vector, (*lead, VECTOR_DIM))}
    images = {c: _images(k, lead, size) for c, k in zip(CAMERAS, k_images, strict=True)}
    return random_transitions(k_rest, vector | images, ACTION_DIM)


if __name__ == "__main__":
    serve(start)
