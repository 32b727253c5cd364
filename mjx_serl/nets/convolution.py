"""Strided convolutions, each part by what is fastest on the device.

On a CPU XLA's convolution is quick forward and slow backward, most of all in the kernel's
gradient and inside a loop such as an epoch: there the encoder "small" costs 0.54 s of CPU forward
and backward on 256 images of 64 px, and 19 ms with the gradients as products of patches (`python
-m benchmarks.drq` measures it both ways). Neither gains from bfloat16 on a CPU: rounding costs
more than the products save.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mjx_serl.nets.mlp import ComputeDtype

Maps: TypeAlias = Float[Array, "B H W C"]
Kernel: TypeAlias = Float[Array, "K K C out"]
Convolution: TypeAlias = Callable[[Maps, Kernel], Maps]


class Conv(nn.Module):
    """A square convolution with zero padding and a bias, He-normal initialised.

    Attributes:
        features: output channels.
        size: of the kernel [px].
        stride: of the kernel [px].
        padding: zeros on each side [px].
        compute_dtype: of the products, where the device has a library for them.
    """

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    compute_dtype: ComputeDtype = "float32"

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Map [B, H, W, C] to [B, (H + 2 padding - size) // stride + 1, ..., features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        margin = (self.padding, self.padding)
        x = jnp.pad(x, ((0, 0), margin, margin, (0, 0)))
        return cast(Array, convolve(self.stride, self.compute_dtype, x, kernel)) + bias


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def convolve(stride: int, compute_dtype: ComputeDtype, x: Maps, kernel: Kernel) -> Maps:
    """Return the convolution of x with `kernel` where it lies wholly inside x."""
    # Patches that tile the image are a mere transposition of it.
    tiles = kernel.shape[0] == stride
    on_cpu = partial(by_product, stride) if tiles else partial(by_library, stride, "float32")
    library = partial(by_library, stride, compute_dtype)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=library)


def _forward(
    stride: int, compute_dtype: ComputeDtype, x: Maps, kernel: Kernel
) -> tuple[Maps, tuple[Maps, Kernel]]:
    return convolve(stride, compute_dtype, x, kernel), (x, kernel)


def _backward(
    stride: int, compute_dtype: ComputeDtype, saved: tuple[Maps, Kernel], dy: Maps
) -> tuple[Maps, Kernel]:
    def gradients(convolution: Convolution, dy: Maps, *saved: Array) -> tuple[Maps, Kernel]:
        return jax.vjp(convolution, *saved)[1](dy)

    on_cpu = partial(gradients, partial(by_product, stride))
    library = partial(gradients, partial(by_library, stride, compute_dtype))
    return jax.lax.platform_dependent(dy, *saved, cpu=on_cpu, default=library)


convolve.defvjp(_forward, _backward)


def by_library(stride: int, compute_dtype: ComputeDtype, x: Maps, kernel: Kernel) -> Maps:
    """Return XLA's own convolution; with bfloat16 its result is rounded too."""
    dtype = jnp.dtype(compute_dtype)
    y = jax.lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.astype(jnp.float32)


def by_product(stride: int, x: Maps, kernel: Kernel) -> Maps:
    """Return the convolution as one matrix product of patches."""
    return patches(x, kernel.shape[0], stride) @ kernel.reshape(-1, kernel.shape[-1])


def patches(x: Maps, size: int, stride: int) -> Float[Array, "B rows columns KKC"]:
    """Return every size x size patch, flattened in the order of a kernel [size, size, C]."""
    count, height, width, channels = x.shape
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    if size == stride:
        tiles = x[:, : rows * size, : columns * size]
        tiles = tiles.reshape(count, rows, size, columns, size, channels)
        return tiles.swapaxes(2, 3).reshape(count, rows, columns, -1)
    down, along = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    shifted = [
        x[:, i : i + down : stride, j : j + along : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)
