"""Pictures and videos of a run in its folder."""

from functools import partial

from mjx_serl.run.checkpoint import warn_line
from mjx_serl.run.loop import Run
from mjx_serl.run.summary import Summary
from mjx_serl.training.evaluate import ON_DEMAND, stream_key
from mjx_serl.training.state import TrainState
from mjx_serl.viewing.film import Player, VideoWriter, learned


class RunVideo:
    """Writes worlds.png at each check and policy.mp4 at the end, as `RunConfig.video` says."""

    def after_check(self, run: Run, state: TrainState) -> None:
        """Write what the cameras of the training worlds see now."""
        if _wanted(run):
            _writer(run).show_worlds(state.worlds)

    def after_run(self, run: Run, state: TrainState, summary: Summary) -> None:
        """Write episodes that training has not seen."""
        del summary
        if _wanted(run):
            _writer(run).film(trained(run, state), stream_key(run.cfg.seed, ON_DEMAND))


def trained(run: Run, state: TrainState) -> Player:
    """The deterministic policy of a run's state."""
    policy = partial(run.trainer.policy, deterministic=True)
    return learned(policy, state.agent, state.normalizer)


def _wanted(run: Run) -> bool:
    video = run.cfg.run.video
    return video == "on" or (video == "auto" and run.observer.eye is not None)


def _writer(run: Run) -> VideoWriter:
    return VideoWriter(run.folder.path, run.observer, run.cfg.pixels, warn=warn_line)
