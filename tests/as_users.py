"""Processes as users start them: compiled with the optimisation that the suite does without."""

import os

# Compiling is most of what the suite does, and takes half as long unoptimised.
UNOPTIMISED = (
    "--xla_backend_optimization_level=0 --xla_cpu_enable_concurrency_optimized_scheduler=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)


def user_env() -> dict[str, str]:
    """Environment of a process that trains in earnest."""
    flags = os.environ.get("XLA_FLAGS", "").replace(UNOPTIMISED, "").strip()
    return os.environ | {"XLA_FLAGS": flags}
