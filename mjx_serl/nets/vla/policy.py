"""The policy: pictures, words and state to the velocity of a chunk of actions.

Time runs as openpi's, t = 1 is noise and t = 0 the actions: x_t = t noise + (1 - t) actions, and
the velocity is noise - actions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped

from mjx_serl.nets.vla.config import VLAConfig
from mjx_serl.nets.vla.gemma import KeyValues, Stream, embed_words, transform
from mjx_serl.nets.vla.images import unit_pictures
from mjx_serl.nets.vla.parameters import ACTION_EXPERT, draw
from mjx_serl.nets.vla.siglip import dense, encode_pictures
from mjx_serl.types import PRNGKey, PyTree
from scenes.contract.errors import InputError

_SHORTEST, _LONGEST = 4e-3, 4.0  # periods of the time's embedding, of openpi

Pictures = Mapping[str, Shaped[Array, "B H W 3"]]
Present = Mapping[str, Bool[Array, " B"]]


class Observation(NamedTuple):
    """What is seen: the arguments of `FlowVLA.encode_prefix`.

    Attributes:
        images: by camera, uint8 or float in [-1, 1], of any size.
        present: by camera, whether there is a picture; a camera without an entry has one.
        tokens: of the prompt.
        token_mask: false where the prompt is padded.
        state: as it is normalised.
    """

    images: Pictures
    present: Present
    tokens: Int[Array, "B L"]
    token_mask: Bool[Array, "B L"]
    state: Float[Array, "B S"]


@struct.dataclass
class PrefixCache:
    """What the action expert needs of pictures, words and state, for all its passes.

    Attributes:
        seen: keys and values of the prefix.
        valid: which of its tokens count.
        state: what pi0 reads; of length 0 in pi0.5, which has it in its prompt or not at all.
    """

    seen: KeyValues
    valid: Bool[Array, "B P"]
    state: Float[Array, "B S"]


@dataclass(frozen=True)
class FlowVLA:
    """A policy of some sizes; its parameters are `parameters.leaves`.

    Attributes:
        config: the sizes.
    """

    config: VLAConfig

    def init(self, key: PRNGKey) -> PyTree:
        """Draw parameters."""
        return draw(self.config, key)

    def encode_prefix(
        self,
        params: PyTree,
        images: Pictures,
        present: Present,
        tokens: Int[Array, "B L"],
        token_mask: Bool[Array, "B L"],
        state: Float[Array, "B S"],
    ) -> tuple[PrefixCache, Float[Array, "B D"]]:
        """Read an `Observation` once; a state that is short is padded with zeros.

        Returns:
            The cache, and for a value the mean of the valid tokens' outputs, float32.
        """
        words, valid = self._prefix(params, images, present, tokens, token_mask)
        (out,), seen = transform(
            self.config,
            params["PaliGemma"]["llm"],
            (Stream(words),),
            mask=_both(valid),
            positions=_positions(valid),
        )
        counted = valid[..., None].astype(jnp.float32)
        total = jnp.sum(out.astype(jnp.float32) * counted, axis=1)
        features = total / jnp.maximum(jnp.sum(counted, axis=1), 1.0)
        return PrefixCache(seen, valid, self._state(state)), features

    def velocity(
        self,
        params: PyTree,
        cache: PrefixCache,
        x_t: Float[Array, "B H A"],
        t: Float[Array, " B"],
    ) -> Float[Array, "B H A"]:
        """Return dx/dt, float32, at actions `x_t` and times `t` in [0, 1]: one pass."""
        actions, condition = self._suffix(params, cache.state, x_t, t)
        before = jnp.broadcast_to(
            cache.valid[:, None], (x_t.shape[0], self.config.suffix, cache.valid.shape[1])
        )
        within = jnp.broadcast_to(self._blocks, (x_t.shape[0], *self._blocks.shape))
        count = jnp.sum(cache.valid, axis=1, keepdims=True)
        (out,), _ = transform(
            self.config,
            params["PaliGemma"]["llm"],
            (Stream(actions, ACTION_EXPERT, condition),),
            mask=jnp.concatenate([before, within], axis=-1),
            positions=count + jnp.arange(self.config.suffix),
            cache=cache.seen,
        )
        return self._head(params, out)

    def joint_velocity(
        self,
        params: PyTree,
        seen: Observation,
        x_t: Float[Array, "B H A"],
        t: Float[Array, " B"],
    ) -> Float[Array, "B H A"]:
        """`velocity` by one pass of all tokens without a cache: its slow twin."""
        words, valid = self._prefix(params, *seen[:4])
        actions, condition = self._suffix(params, self._state(seen.state), x_t, t)
        counted = jnp.pad(valid, ((0, 0), (0, self.config.suffix)), constant_values=True)
        ahead = np.zeros((valid.shape[1], self.config.suffix), bool)
        behind = np.ones((self.config.suffix, valid.shape[1]), bool)
        blocks = np.block([[np.ones((valid.shape[1],) * 2, bool), ahead], [behind, self._blocks]])
        (_, out), _ = transform(
            self.config,
            params["PaliGemma"]["llm"],
            (Stream(words), Stream(actions, ACTION_EXPERT, condition)),
            mask=_both(counted) & blocks,
            positions=_positions(counted),
        )
        return self._head(params, out)

    def _prefix(
        self,
        params: PyTree,
        images: Pictures,
        present: Present,
        tokens: Int[Array, "B L"],
        token_mask: Bool[Array, "B L"],
    ) -> tuple[Float[Array, "B P D"], Bool[Array, "B P"]]:
        """Tokens of pictures and words, and which of them count."""
        model, cameras = params["PaliGemma"], self.config.cameras
        missing = [name for name in cameras if name not in images]
        if missing:
            raise InputError(f"No picture of {', '.join(missing)}, got {', '.join(images)}")
        batch, size = tokens.shape[0], self.config.vision.image
        stacked = jnp.stack([unit_pictures(images[name], size) for name in cameras], axis=1)
        seen = encode_pictures(self.config, model["img"], stacked.reshape(-1, size, size, 3))
        seen = seen.reshape(batch, -1, seen.shape[-1])
        words = embed_words(model["llm"], tokens).astype(seen.dtype)
        there = [present.get(name, jnp.ones(batch, bool)) for name in cameras]
        shown = jnp.repeat(jnp.stack(there, axis=1), self.config.vision.tokens, axis=1)
        return jnp.concatenate([seen, words], axis=1), jnp.concatenate([shown, token_mask], axis=1)

    def _suffix(
        self,
        params: PyTree,
        state: Float[Array, "B S"],
        x_t: Float[Array, "B H A"],
        t: Float[Array, " B"],
    ) -> tuple[Float[Array, "B T W"], Float[Array, "B W"] | None]:
        """Tokens of state and actions, and what the norms are told of the time."""
        actions = dense(params["action_in_proj"], x_t)
        time = embed_time(t, self.config.expert.width)
        if self.config.pi05:
            hidden = jax.nn.swish(dense(params["time_mlp_in"], time))
            return actions, jax.nn.swish(dense(params["time_mlp_out"], hidden))
        times = jnp.broadcast_to(time[:, None], actions.shape)
        both = jnp.concatenate([actions, times], axis=-1)
        hidden = jax.nn.swish(dense(params["action_time_mlp_in"], both))
        actions = dense(params["action_time_mlp_out"], hidden)
        state = dense(params["state_proj"], state)[:, None]
        return jnp.concatenate([state, actions], axis=1), None

    def _state(self, state: Float[Array, "B S"]) -> Float[Array, "B S"]:
        if self.config.pi05:
            return jnp.zeros((state.shape[0], 0), jnp.float32)
        wide = self.config.state_dim
        short = wide - state.shape[-1]
        if short < 0:
            raise InputError(f"A state of {state.shape[-1]} numbers, allowed: {wide} or fewer")
        return jnp.pad(state.astype(jnp.float32), ((0, 0), (0, short)))

    def _head(self, params: PyTree, out: Float[Array, "B T W"]) -> Float[Array, "B H A"]:
        last = out[:, -self.config.horizon :].astype(jnp.float32)
        return dense(params["action_out_proj"], last)

    @property
    def _blocks(self) -> np.ndarray:
        """Which tokens of the suffix see which: the state itself, the actions everything."""
        sees = np.ones((self.config.suffix, self.config.suffix), bool)
        if not self.config.pi05:
            sees[0, 1:] = False
        return sees


def embed_time(t: Float[Array, " B"], width: int) -> Float[Array, "B W"]:
    """Sines and cosines of times in [0, 1], with periods from 0.004 to 4."""
    share = jnp.linspace(0.0, 1.0, width // 2)
    periods = _SHORTEST * (_LONGEST / _SHORTEST) ** share
    angle = t[:, None] * (1.0 / periods * 2.0 * jnp.pi)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _both(valid: Bool[Array, "B T"]) -> Bool[Array, "B T T"]:
    return valid[:, None] & valid[:, :, None]


def _positions(valid: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Of the valid tokens among themselves."""
    return jnp.cumsum(valid, axis=1) - 1
