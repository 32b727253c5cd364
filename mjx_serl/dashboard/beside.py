"""The dashboard beside a run that trains."""

from mjx_serl.dashboard.server import Dashboard
from mjx_serl.run.loop import Companion, Run


class RunDashboard(Companion):
    """Serves the folder of a run's runs while it trains; has no say in it."""

    def __init__(self) -> None:
        self._dashboard: Dashboard | None = None

    def start(self, run: Run) -> None:
        """Open the page."""
        self._dashboard = Dashboard(run.folder.path.parent)
        run.hooks.on_stage(f"dashboard: {self._dashboard.url}")

    def close(self) -> None:
        """Close the page."""
        if self._dashboard is not None:
            self._dashboard.close()
