"""Would each preset's epoch compile for a GPU? Lowered for CUDA on a machine that has none.

    python -m benchmarks.gpu_ready
    python -m benchmarks.gpu_ready --presets fast pixels --physics warp --num-envs 4096
    python -m benchmarks.gpu_ready --presets laptop --physics mjx --num-envs 4096 --compiled

What XLA is given for one epoch is read: nothing in it may call back into Python, each custom call
is a known one, no number is 64 bits wide by mistake, and the buffers of the state that goes in are
those of the state that comes out. A row's figure is what one epoch wants of memory beside its
state, without fusion (`benchmarks/liveness.py` has what that is worth); it names the largest arrays
that are computed. With `--compiled` the same epoch is also compiled for this machine's CPU, of
which XLA says what it assigns: a stand-in for what it would on a GPU. That an epoch also runs
there, and how fast, only a GPU can show.
"""

import dataclasses
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from benchmarks.liveness import peak_bytes, values_by_size
from benchmarks.results import Recorder
from benchmarks.resumable import go_on, is_wanted, require_known
from benchmarks.workers.platform import prepare
from scenes.contract.errors import InputError
from scenes.contract.ranges import ranged

QUESTION = "gpu_ready"
# What jaxlib and warp's foreign functions are called as, up to the number that warp counts.
KNOWN = (
    "cusolver_",
    "cublas_",
    "cu_threefry2x32",
    "cu_lu_pivots_to_permutation",
    "jax_callable_variadic_tuple",
    "Sharding",
)
_LARGEST = 3  # arrays that are named
MANY = 4096  # worlds of a GPU, whose rows docs/scale.md shows
Kind = Literal["mjx", "warp"]


@dataclass(frozen=True, kw_only=True)
class GpuReadyConfig:
    """What is lowered.

    Attributes:
        presets: of train.py; all by default.
        physics: each of them.
        num_envs: worlds; None leaves the preset's.
        devices: that share them.
        compiled: compile for this machine's CPU too.
        again: lower once more what is filed already.
    """

    presets: tuple[str, ...] = ()
    physics: tuple[Kind, ...] = ("mjx", "warp")
    num_envs: int | None = ranged(None, least=1)
    devices: int = ranged(1, least=1)
    compiled: bool = False
    again: bool = False


@dataclass(frozen=True)
class CudaModule:
    """What XLA would be given for an epoch on a GPU.

    Attributes:
        unknown: custom calls that no GPU library is known by.
        callbacks: it calls back into Python, which is not lowered for another machine's device.
        doubles: arrays of 64-bit floats.
        kept: arrays of the state whose buffers are used again, of `donated` in all.
        largest: bytes and type of the largest arrays that it computes.
        state_bytes: of what goes in.
        fused_bytes: alive at once beside it, if what goes element by element takes no buffer.
        unfused_bytes: alive at once if all does.
    """

    unknown: tuple[str, ...] = ()
    callbacks: bool = False
    doubles: int = 0
    kept: int = 0
    donated: int = 0
    largest: tuple[tuple[int, str], ...] = ()
    state_bytes: int = 0
    fused_bytes: int = 0
    unfused_bytes: int = 0

    @property
    def faults(self) -> list[str]:
        """What a GPU would stumble over, in words."""
        found = ["calls back into Python"] if self.callbacks else []
        found += [f"unknown custom call: {name}" for name in self.unknown]
        if self.doubles:
            found.append(f"{self.doubles} arrays of 64-bit floats")
        if self.kept < self.donated:
            found.append(f"{self.donated - self.kept} of {self.donated} buffers are not used again")
        return found


def cuda_module(trainer: Any) -> CudaModule:
    """Lower a trainer's epoch for CUDA, its state donated, and read what it became."""
    from mjx_serl.training.state import tree_bytes  # once the platform is prepared

    shapes = trainer.state_shapes()
    try:
        lowered = _jitted(trainer).trace(shapes).lower(lowering_platforms=("cuda",))
        module, text = lowered.compiler_ir("stablehlo"), lowered.as_text()
    except ValueError as error:
        if "different from the lowering platform" not in str(error):
            raise
        return CudaModule(callbacks=True)
    calls = sorted(set(re.findall(r"custom_call @([\w.]+)", text)))
    heading = re.search(r"func.func public @main\((.*)\) -> ", text)
    arguments = heading[1].split("%arg")[1:] if heading else []
    kept = sum("tf.aliasing_output" in each or "jax.buffer_donor" in each for each in arguments)
    return CudaModule(
        unknown=tuple(name for name in calls if not name.startswith(KNOWN)),
        doubles=len(set(re.findall(r"tensor<(?:\d+x)*f64>", text))),
        kept=kept,
        donated=len(arguments),
        largest=tuple(values_by_size(module)[:_LARGEST]),
        state_bytes=tree_bytes(shapes),
        fused_bytes=peak_bytes(module, fused=True),
        unfused_bytes=peak_bytes(module, fused=False),
    )


def _jitted(trainer: Any) -> Any:
    import jax

    return getattr(trainer, "jit", partial(jax.jit, donate_argnums=0))(trainer.epoch)


def cpu_bytes(trainer: Any) -> int:
    """What XLA assigns beside the state to the same epoch, compiled for this machine's CPU."""
    compiled = _jitted(trainer).lower(trainer.state_shapes()).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def run(cfg: GpuReadyConfig, recorder: Recorder) -> None:
    """Lower what has no row yet."""
    prepare(mjx=True, cpu_devices=cfg.devices)
    from mjx_serl.experiments import PRESETS

    require_known("preset", cfg.presets, [*PRESETS])
    for preset in cfg.presets or [*PRESETS]:
        for physics in cfg.physics:
            name = f"{preset}, {physics}" + (f", {cfg.num_envs} worlds" if cfg.num_envs else "")
            name += f", {cfg.devices} devices" if cfg.devices > 1 else ""
            if is_wanted(recorder, name, again=cfg.again):
                config = dataclasses.replace(PRESETS[preset](), devices=cfg.devices)
                chosen = on_gpu(config, physics, cfg.num_envs)
                _measure(chosen, name, recorder, compiled=cfg.compiled)


def on_gpu(config: Any, physics: Kind, num_envs: int | None = None) -> Any:
    """A run's config with what a GPU would choose: physics there, a renderer that is traced."""
    changes: dict[str, Any] = {"physics": physics}
    if num_envs is not None:
        changes["num_envs"] = num_envs
    if config.pixels.cameras:
        changes["pixels"] = dataclasses.replace(config.pixels, backend="xla")
    return dataclasses.replace(config, **changes)


def _measure(cfg: Any, name: str, recorder: Recorder, *, compiled: bool) -> None:
    from mjx_serl.training.sharded import over_devices

    began = time.perf_counter()
    try:
        trainer = over_devices(cfg.build(cfg.build_observer()), cfg.devices)
        found = cuda_module(trainer)
    except (InputError, NotImplementedError) as error:
        recorder.missing(name, str(error), {"worlds": cfg.num_envs, "task": cfg.task})
        return
    largest = [f"{size / 2**20:.1f} MiB {kind}" for size, kind in found.largest]
    params = {"worlds": cfg.num_envs, "faults": found.faults, "largest": largest}
    params |= {"buffers": found.donated, "task": cfg.task, "state_bytes": found.state_bytes}
    params |= {"fused_bytes": found.fused_bytes, "seconds": time.perf_counter() - began}
    if compiled:
        params["cpu_bytes"] = cpu_bytes(trainer)
    recorder.add(name, float(found.unfused_bytes), "bytes", params)


if __name__ == "__main__":
    go_on(GpuReadyConfig, __doc__, QUESTION, run)
