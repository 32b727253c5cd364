"""What devices that train together can share equally."""

import math
from collections.abc import Mapping

from mjx_serl.envs.vector import VecEnv
from scenes.contract.errors import InputError

_MOST_NAMED = 64  # devices in a message


def check_divides(among: int, sizes: Mapping[str, int], vec_env: VecEnv | None = None) -> None:
    """Raise InputError where so many devices cannot share sizes, named by option, equally.

    Of `vec_env` they share the worlds and the prepared resets.
    """
    if vec_env is not None:
        worlds, pool = vec_env.num_envs, vec_env.pool_size
        sizes = {"--num-envs": worlds, **sizes, "prepared resets": pool}
    if all(size % among == 0 for size in sizes.values()):
        return
    common = math.gcd(*sizes.values())
    allowed = [str(n) for n in range(1, _MOST_NAMED + 1) if common % n == 0]
    said = ", ".join(f"{name} {size}" for name, size in sizes.items())
    raise InputError(
        f"--devices {among} with {said}, which they share equally; allowed with these: "
        f"{', '.join(allowed)}"
    )
