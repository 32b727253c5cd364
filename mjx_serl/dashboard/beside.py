"""The dashboard beside a run that trains."""

from mjx_serl.dashboard.server import Dashboard
from mjx_serl.run.loop import Run
from mjx_serl.run.programs import EpochFn
from mjx_serl.training.state import TrainState


class RunDashboard:
    """Serves the folder of a run's runs while it trains; has no say in it."""

    def __init__(self) -> None:
        self._dashboard: Dashboard | None = None

    def start(self, run: Run) -> None:
        """Open the page."""
        self._dashboard = Dashboard(run.folder.path.parent)
        run.hooks.on_stage(f"dashboard: {self._dashboard.url}")

    def before_epoch(
        self, run: Run, state: TrainState, epoch: EpochFn
    ) -> tuple[TrainState, EpochFn]:
        """Change nothing."""
        del run
        return state, epoch

    def before_end(self, run: Run, state: TrainState) -> TrainState:
        """Change nothing."""
        del run
        return state

    def close(self) -> None:
        """Close the page."""
        if self._dashboard is not None:
            self._dashboard.close()

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}
