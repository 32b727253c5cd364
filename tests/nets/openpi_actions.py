"""Writes openpi_actions.json: what openpi's own class does with the weights of synthetic_vla.py.

Run once, by hand, in an environment of its own, and again only where that file changes:

    python -m venv /tmp/openpi && /tmp/openpi/bin/pip install jax==0.10.2 flax==0.12.8 \
        orbax-checkpoint==0.12.8 einops jaxtyping==0.2.36 beartype==0.19.0
    PYTHONPATH=OPENPI/src:tests /tmp/openpi/bin/python tests/nets/openpi_actions.py

OPENPI held src/openpi/{models/{pi0,pi0_config,gemma,siglip,lora,model},shared/{array_typing,
image_tools}}.py of github.com/Physical-Intelligence/openpi without what imports torch and augmax.
Its sizes are replaced from outside; nothing of it is part of this repository.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import synthetic_vla as rule
from flax.traverse_util import flatten_dict, unflatten_dict
from openpi.models import gemma, model, pi0_config, siglip

STEPS = (10, 4)  # of Euler's method


def shrink() -> None:
    """Give openpi's modules the sizes of the rule."""
    sizes = {"gemma_2b": gemma.Config(**rule.VLM), "gemma_300m": gemma.Config(**rule.EXPERT)}
    gemma.get_config = sizes.__getitem__
    gemma.PALIGEMMA_VOCAB_SIZE = rule.VOCABULARY
    siglip.decode_variant = lambda variant: dict(rule.VISION)
    model.IMAGE_RESOLUTION = (rule.IMAGE, rule.IMAGE)
    model.preprocess_observation = functools.partial(
        model.preprocess_observation, image_resolution=model.IMAGE_RESOLUTION
    )


def seen() -> tuple[Any, jax.Array]:
    """Return the observation as openpi takes it, and the noise."""
    raw = rule.observation()
    data = {
        "image": {name: jnp.asarray(raw[f"image/{name}"]) for name in rule.CAMERAS},
        "image_mask": {name: jnp.asarray(raw[f"mask/{name}"]) for name in rule.CAMERAS},
        "state": jnp.asarray(raw["state"]),
        "tokenized_prompt": jnp.asarray(raw["tokens"]),
        "tokenized_prompt_mask": jnp.asarray(raw["token_mask"]),
    }
    return model.Observation.from_dict(data), jnp.asarray(raw["noise"])


def actions(*, pi05: bool, dtype: str) -> dict[str, Any]:
    """Return the actions by the number of steps, and the shapes of all parameters."""
    config = pi0_config.Pi0Config(
        dtype=dtype,
        pi05=pi05,
        action_dim=rule.ACTIONS,
        action_horizon=rule.HORIZON,
        max_token_len=rule.PROMPT,
    )
    shapes = nnx.state(nnx.eval_shape(config.create, jax.random.key(0))).to_pure_dict()
    flat = flatten_dict(shapes, sep="/")
    params = {path: jnp.asarray(rule.weight(path, leaf.shape)) for path, leaf in flat.items()}
    policy = config.load(unflatten_dict(params, sep="/"))
    observation, noise = seen()
    found = {
        str(steps): plain(
            policy.sample_actions(jax.random.key(0), observation, num_steps=steps, noise=noise)
        )
        for steps in STEPS
    }
    return {"shapes": {path: list(leaf.shape) for path, leaf in sorted(flat.items())}, **found}


def plain(x: jax.Array) -> list:
    """Return numbers with the digits that float32 has, as lists."""
    return jax.tree.map(lambda number: float(f"{number:.8g}"), x.tolist())


def main() -> None:
    """Write the file beside this one."""
    shrink()
    found = {
        f"{name}-{dtype}": actions(pi05=name == "pi05", dtype=dtype)
        for name in ("pi0", "pi05")
        for dtype in ("float32", "bfloat16")
    }
    for name in ("pi0-bfloat16", "pi05-bfloat16"):
        del found[name]["shapes"]
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(found) + "\n")
    sys.stdout.write(f"{out}: {out.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
