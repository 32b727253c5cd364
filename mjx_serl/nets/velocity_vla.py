"""A vision-language-action network as the velocity field of a flow policy; see `nets.velocity`."""

from dataclasses import dataclass, replace
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.nets.encoders import encode_vectors, vector_dim
from mjx_serl.nets.mlp import ComputeDtype
from mjx_serl.nets.velocity import VELOCITY_NETS
from mjx_serl.nets.vla.config import SIZES, VLAConfig
from mjx_serl.nets.vla.policy import FlowVLA, PrefixCache
from mjx_serl.types import Obs, PRNGKey, PyTree
from scenes.contract.errors import InputError
from scenes.contract.language import PAD
from scenes.contract.ranges import ranged
from scenes.contract.specs import ObsField, ObsSpec

# `agent.trained` of a policy whose eyes and reading stay as they are: `parameters.is_learned`.
EXPERT_ONLY = ("PaliGemma/llm/*_1/*", "action_*", "time_*", "state_proj/*")


@VELOCITY_NETS.register("vla")
@dataclass(frozen=True, kw_only=True)
class VLAVelocityConfig:
    """openpi's pi0 or pi0.5, over the cameras, words and vectors that are observed.

    Attributes:
        size: "tiny", for a CPU, or "full", openpi's, whose checkpoints fit.
        state_token: pi0, which reads the observed vectors as a token; else pi0.5, which sees
            pictures and words alone.
        predicted: actions that it predicts at once, of which the first are played; 0 as many as
            are played.
        compute_dtype: of its layers.
        remat: compute its layers again for gradients instead of keeping what they made.
    """

    size: Literal["tiny", "full"] = "tiny"
    state_token: bool = True
    predicted: int = ranged(0, least=0, most=100)
    compute_dtype: ComputeDtype = "float32"
    remat: bool = False

    def build(self, obs: ObsSpec, *, horizon: int, dim: int) -> "VLAVelocity":
        """Return the net; InputError for observations or actions that are not for it."""
        seen = obs.policy
        images, words, vectors = (seen.of_kind(kind) for kind in ("image", "tokens", "vector"))
        self._check(seen, images, words)
        size = vector_dim(vectors)
        config = replace(
            SIZES["tiny" if self.size == "tiny" else "pi05"],
            pi05=not self.state_token,
            cameras=tuple(field.name for field in images),
            prompt=words[0].shape[0] if words else 1,
            horizon=max(horizon, self.predicted),
            compute_dtype=self.compute_dtype,
            remat=self.remat,
        )
        if self.size == "tiny":
            # Pictures as they are, where they can be cut into its patches.
            (edge, *other), patch = {n for f in images for n in f.shape[:2]}, config.vision.patch
            as_seen = not other and edge % patch == 0
            vision = replace(config.vision, image=edge) if as_seen else config.vision
            config = replace(config, vision=vision, state_dim=max(size, 1), action_dim=dim)
        _fits("numbers observed", size, config.state_dim)
        _fits("numbers of an action", dim, config.action_dim)
        _fits("words of the tokenizer", int(words[0].scale) if words else 0, config.vocabulary)
        config.check()
        return VLAVelocity(config, words[0].name if words else None, vectors)

    def exact(self) -> "VLAVelocityConfig":
        """The same with float32 products."""
        return replace(self, compute_dtype="float32")

    def _check(
        self, seen: ObsSpec, images: tuple[ObsField, ...], words: tuple[ObsField, ...]
    ) -> None:
        other = [f"'{field.name}' ({field.kind})" for field in seen.of_kind("depth", "maps")]
        other += [f"'{f.name}' {f.shape}" for f in images if len(f.shape) != 3 or f.shape[-1] != 3]
        if other or not images or len(words) > 1:
            got = ", ".join(other) or f"{len(images)} images and {len(words)} instructions"
            raise InputError(
                f"velocity net 'vla' reads pictures [H, W, 3], vectors and up to one instruction, "
                f"got {got}; allowed: a task with cameras, or another net (agent.net)"
            )


@dataclass(frozen=True)
class VLAVelocity:
    """The net that a `VLAVelocityConfig` builds; see `VelocityNet`.

    Attributes:
        config: sizes.
        words: name of the observed instruction; None where there is none.
        vectors: that are observed.
    """

    config: VLAConfig
    words: str | None
    vectors: tuple[ObsField, ...]

    @property
    def horizon(self) -> int:
        """Actions of a chunk."""
        return self.config.horizon

    @property
    def width(self) -> int:
        """Numbers of an action, those that only fill it up included."""
        return self.config.action_dim

    @property
    def feature_dim(self) -> int:
        """Length of the features: the prefix's mean, and the vectors, which it does not hold."""
        return self.config.vlm.width + vector_dim(self.vectors)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the images."""
        return self.config.cameras

    def init(self, key: PRNGKey) -> PyTree:
        """Draw parameters."""
        return FlowVLA(self.config).init(key)

    def encode_prefix(self, params: PyTree, obs: Obs) -> tuple[PrefixCache, Float[Array, "B F"]]:
        """Return what `velocity` needs of observations, and features for a value network."""
        images = {name: obs[name] for name in self.cameras}
        batch = next(iter(images.values())).shape[0]
        # Without an instruction there is one slot, which is empty.
        words = jnp.full((batch, 1), PAD) if self.words is None else obs[self.words]
        state = encode_vectors(obs, self.vectors) if self.vectors else jnp.zeros((batch, 0))
        cache, features = FlowVLA(self.config).encode_prefix(
            params, images, {}, words, words != PAD, state
        )
        return cache, jnp.concatenate([features, state], axis=-1)

    def velocity(
        self,
        params: PyTree,
        cache: PrefixCache,
        x: Float[Array, "B H D"],
        time: Float[Array, " B"],
    ) -> Float[Array, "B H D"]:
        """Return the velocity at points x of times in [0, 1]."""
        return FlowVLA(self.config).velocity(params, cache, x, time)


def _fits(what: str, number: int, most: int) -> None:
    if number > most:
        raise InputError(f"velocity net 'vla': {number} {what}, allowed: up to {most}")
