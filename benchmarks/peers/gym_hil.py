"""gym-hil's PandaPickCube in gymnasium's SyncVectorEnv, as vectorised SERL forks run it.

Params: num_envs, seconds. Runs in a virtual environment of its own. State observations; its
renderer, which every environment makes and never needs here, is replaced by one that draws
nothing, so that it also runs without OpenGL.
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

    mujoco.Renderer = NoRenderer
    import gym_hil as gym_hil  # registers the environment

    def make() -> Any:
        return gymnasium.make("gym_hil/PandaPickCubeBase-v0", image_obs=False)

    envs = gymnasium.vector.SyncVectorEnv([make] * params["num_envs"])
    envs.reset(seed=0)
    envs.action_space.seed(0)
    inner: Any = envs.envs[0].unwrapped
    facts = {
        "ctrl_dt": inner.control_dt,
        "substeps": int(inner._n_substeps),
        "note": "state observations, renderer replaced by none",
    }

    def call() -> None:
        envs.step(envs.action_space.sample())

    return Job(lambda: rate(call, params["num_envs"], params["seconds"]), facts)


if __name__ == "__main__":
    serve(start)
