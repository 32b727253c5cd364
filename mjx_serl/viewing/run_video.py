"""Pictures and videos of a run in its folder."""

from functools import partial

from mjx_serl.envs.vector import VecState
from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.loop import Output, Run
from mjx_serl.run.summary import Summary
from mjx_serl.training.evaluate import ON_DEMAND, stream_key
from mjx_serl.training.policies import trained_policy
from mjx_serl.training.state import PolicyParams, TrainState
from mjx_serl.viewing.episode_video import VideoWriter
from mjx_serl.viewing.policies import WorldPolicy, from_observations


class RunVideo(Output):
    """Writes worlds.png at each check and policy.mp4 at the end, as `RunConfig.video` says."""

    def after_check(self, run: Run, state: TrainState) -> None:
        """Write what the cameras of the training worlds see now, where there are any worlds."""
        if _wanted(run) and isinstance(state.worlds, VecState):
            _writer(run).write_worlds(state.worlds)

    def after_run(self, run: Run, state: TrainState, summary: Summary) -> None:
        """Write episodes that training has not seen."""
        del summary
        if _wanted(run):
            _writer(run).write_policy(
                trained(run, run.trainer.policy_params(state)), stream_key(run.cfg.seed, ON_DEMAND)
            )


def trained(run: Run, params: PolicyParams) -> WorldPolicy:
    """Return the deterministic policy of a trainer's `policy_params`."""
    return from_observations(partial(trained_policy, run.trainer), params)


def _wanted(run: Run) -> bool:
    video = run.cfg.run.video
    return video == "on" or (video == "auto" and run.observer.cameras is not None)


def _writer(run: Run) -> VideoWriter:
    return VideoWriter(run.folder.path, run.observer, run.cfg.pixels, warn=warn_line)
