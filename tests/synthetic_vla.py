"""Weights and observations of a small vision-language-action policy, by a rule instead of a file.

Numpy alone, so that an environment with openpi's class in it makes the same ones: each number is a
hash of its place (splitmix64) in whole numbers, the same on any machine.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

BATCH, HORIZON, ACTIONS, PROMPT, VOCABULARY = 2, 4, 5, 7, 50
IMAGE = 32  # edge [px]
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
# No two sizes are equal where a mix-up of two could then go unseen.
VISION = {"width": 32, "depth": 2, "mlp_dim": 48, "num_heads": 2, "patch_size": (8, 8)}
SHARED = {"depth": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16}
VLM = {"width": 64, "mlp_dim": 96, **SHARED}
EXPERT = {"width": 48, "mlp_dim": 80, **SHARED}


def uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers in [-1, 1)."""
    places = np.arange(int(np.prod(shape)), dtype=np.uint64)
    z = places + np.uint64(zlib.crc32(name.encode())) * np.uint64(2**32)
    z = z * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return ((z >> np.uint64(11)) * 2.0**-52 - 1.0).reshape(shape)


def weight(path: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """One array of parameters, such that what passes a layer keeps about its size."""
    drawn = uniform(path, shape)
    if path.endswith(("scale", "bias")):
        return (0.3 * drawn).astype(np.float32)
    if path.endswith("input_embedding"):
        inputs = shape[-1]
    elif path.endswith("embedding/kernel"):
        inputs = int(np.prod(shape[:3]))
    elif "attn_vec_einsum" in path or path.endswith("/out/kernel"):
        inputs = shape[-3] * shape[-2]
    elif path.endswith(("query/kernel", "key/kernel", "value/kernel")):
        inputs = shape[-3]
    else:
        inputs = shape[-2]
    return (drawn * (3.0 / inputs) ** 0.5).astype(np.float32)


def observation() -> dict[str, NDArray]:
    """A batch of two: of the second there is no left picture; prompts are padded differently.

    One camera's pictures are of another shape than the encoder's, another's are bytes.
    """
    shapes = {CAMERAS[0]: (IMAGE, IMAGE), CAMERAS[1]: (24, 40), CAMERAS[2]: (IMAGE, IMAGE)}
    images = {
        f"image/{name}": uniform(name, (BATCH, *shape, 3)).astype(np.float32)
        for name, shape in shapes.items()
    }
    right = f"image/{CAMERAS[2]}"
    images[right] = np.floor((images[right] + 1.0) * 127.99).astype(np.uint8)
    masks = {f"mask/{name}": np.array([True, name != CAMERAS[1]]) for name in CAMERAS}
    tokens = np.floor((uniform("tokens", (BATCH, PROMPT)) + 1.0) / 2.0 * VOCABULARY)
    return {
        **images,
        **masks,
        "tokens": tokens.astype(np.int32),
        "token_mask": np.arange(PROMPT) < np.array([[5], [3]]),
        "state": uniform("state", (BATCH, ACTIONS)).astype(np.float32),
        "noise": 1.5 * uniform("noise", (BATCH, HORIZON, ACTIONS)).astype(np.float32),
    }
