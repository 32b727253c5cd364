"""What every worker of ours sets before JAX starts."""

from benchmarks.process import ROOT
from mjx_serl.platform import prepare_platform


def prepare(*, mjx: bool = False, cpu_devices: int = 1) -> None:
    """Flags and the compilation cache, as the entry scripts set them."""
    cache = ROOT / ".cache" / "jax"
    prepare_platform(mjx_on_cpu=mjx, cache_dir=cache, cpu_devices=cpu_devices)
