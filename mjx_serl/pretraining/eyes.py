"""Teach a vision-language-action net to see, before it imitates.

One that begins from nothing has to learn from a few dozen demonstrations what is to be seen as well
as what is to be done, and learns them by heart. Here it tells first what the simulator knows, for
example where the cube is, from pictures of other episodes: by the mean of its tokens of pictures
and words, in which the state has no part. Actions are not shown.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mjx_serl.envs.observation import Observer
from mjx_serl.nets.frozen import ReaderSpec
from mjx_serl.nets.velocity_vla import VLAVelocity, VLAVelocityConfig
from mjx_serl.nets.vla.policy import FlowVLA
from mjx_serl.pretraining.encoder import Examples, PretrainConfig
from mjx_serl.pretraining.fit import Fit, Init, make_fit
from mjx_serl.types import PRNGKey, PyTree
from scenes.contract.language import PAD
from scenes.contract.specs import ObsSpec

NET, HEAD = "net", "head"  # parts of the parameters; the head is thrown away
_WARMUP = 100  # updates
_SLOTS = 1  # of the words of worlds that are told nothing


def net_of(config: VLAVelocityConfig, observer: Observer) -> VLAVelocity:
    """Return the net of a run whose policy does not see what only a simulator knows."""
    fields = tuple(field for field in observer.obs_spec.fields if not field.privileged)
    # No parameter depends on the chunk's length.
    return config.build(ObsSpec(fields=fields), horizon=1, dim=observer.env.action_dim)


def told(net: VLAVelocity, params: PyTree, examples: Examples) -> Float[Array, "M T"]:
    """Return what the net tells, in units of the targets' scales."""
    count, words = examples.targets.shape[0], examples.words
    words = jnp.full((count, _SLOTS), PAD) if words is None else words
    pictures, nothing = examples.pictures, jnp.zeros((count, 0))
    _, seen = FlowVLA(net.config).encode_prefix(
        params[NET], pictures, {}, words, words != PAD, nothing
    )
    return seen @ params[HEAD]["kernel"] + params[HEAD]["bias"]


def eyes_fit(config: PretrainConfig, spec: ReaderSpec, net: VLAVelocity) -> tuple[Init, Fit]:
    """Return what `make_fit` does, for a net and its head."""
    warmup = min(_WARMUP, config.updates // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.lr, warmup, config.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def init(key: PRNGKey) -> PyTree:
        shape = (net.config.vlm.width, spec.target_dim)
        head = {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1:])}
        return {NET: net.init(key), HEAD: head}

    def loss(params: PyTree, batch: Examples, key: PRNGKey) -> Float[Array, ""]:
        del key
        # Beyond 2 % of the scale linear, as in `reader_fit`.
        return optax.huber_loss(told(net, params, batch), batch.targets, delta=0.02).mean()

    def draw(key: PRNGKey, examples: Examples, steps: int) -> Int[Array, "steps B"]:
        count = examples.targets.shape[0]
        return jax.random.randint(key, (steps, config.batch_size), 0, count)

    return make_fit(init, loss, optimizer, draw)
