"""A task of gym-hil in gymnasium's SyncVectorEnv, as vectorised SERL forks run it.

Params: num_envs, seconds; id of the environment, PandaPickCube's by default; images: width and
height of its two cameras [px], 0 for state observations. Runs in a virtual environment of its own.
With state observations its renderer, which every environment makes and never needs then, is
replaced by one that draws nothing, so that it also runs without OpenGL. Images need
MUJOCO_GL=osmesa and libosmesa6, or EGL.
"""

from typing import Any

from benchmarks.worker import Job, Params, rate, serve


class NoRenderer:
    """Stands in for `mujoco.Renderer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def update_scene(self, *args: Any, **kwargs: Any) -> None:
        """Draw nothing."""

    def render(self) -> None:
        """Draw nothing."""

    def close(self) -> None:
        """Hold nothing."""


def start(params: Params) -> Job:
    """Make the environments."""
    import gymnasium
    import mujoco

    size, name = params.get("images", 0), params.get("id", "gym_hil/PandaPickCubeBase-v0")
    if not size:
        mujoco.Renderer = NoRenderer
    import gym_hil as gym_hil  # registers the environment

    def make() -> Any:
        options = {"render_spec": _render_spec(size)} if size else {}
        return gymnasium.make(name, image_obs=bool(size), **options)

    envs = gymnasium.vector.SyncVectorEnv([make] * params["num_envs"])
    envs.reset(seed=0)
    envs.action_space.seed(0)
    inner: Any = envs.envs[0].unwrapped
    facts = {
        "ctrl_dt": inner.control_dt,
        "substeps": int(inner._n_substeps),
        "note": f"images {size}x{size} of two cameras"
        if size
        else "state observations, renderer replaced by none",
    }

    def call() -> None:
        envs.step(envs.action_space.sample())

    return Job(lambda: rate(call, params["num_envs"], params["seconds"]), facts)


def _render_spec(size: int) -> Any:
    from gym_hil.mujoco_gym_env import GymRenderingSpec

    return GymRenderingSpec(height=size, width=size)


if __name__ == "__main__":
    serve(start)
