"""A recording as an arm: its states come again in their own time, what is sent is compared.

What would another bundle, or stricter limits, have done with what this arm saw? Nothing follows:
the states are those of the recording whatever is sent.
"""

import bisect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_bridge.cameras.camera import Frame, Intrinsics
from robot_bridge.clock import Clock
from robot_bridge.driver import (
    ArmInfo,
    ArmState,
    Target,
)
from robot_bridge.drivers.pretended_link import PretendedArm
from robot_bridge.messages import Tick
from robot_bridge.records.reader import RecordReader, TickRecord
from scenes.contract.errors import InputError

Obs = Mapping[str, NDArray[Any]]


class ReplayDriver(PretendedArm):
    """Plays the ticks of a recording in which the arm was controlled.

    FileNotFoundError or ValueError where there is no such recording.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__("The replay")
        reader = RecordReader(path)
        self.header = reader.header
        records = [r for r in reader if isinstance(r, TickRecord) and r.tick.target is not None]
        if not records:
            raise InputError(f"In the recording '{path}' no arm was ever commanded")
        self._ticks = [record.tick for record in records]
        seen = [(record.tick.t, record.obs) for record in records if record.obs is not None]
        self._seen_at = [t for t, _ in seen]
        self._seen: list[Obs] = [obs for _, obs in seen]
        self._times = [tick.t for tick in self._ticks]
        self._clock, self._began = clock, 0.0
        self.gaps: list[float] = []

    @property
    def info(self) -> ArmInfo:
        """The arm that was recorded."""
        header = self.header
        return ArmInfo(
            robot=header.robot,
            serial=f"replay of {header.serial or 'an arm'}",
            firmware=header.firmware or "unknown",
            takes="nothing",
            simulated=True,
        )

    @property
    def over(self) -> bool:
        """Whether the recording has come to its end."""
        return self._clock.now() - self._began > self._times[-1] - self._times[0]

    @property
    def seconds(self) -> float:
        """How long the recording is [s]."""
        return self._times[-1] - self._times[0]

    def start(self, episode: int = 0) -> None:
        """Begin again."""
        del episode
        self._began = self._clock.now()
        self.gaps.clear()

    @property
    def compared(self) -> str:
        """How far what was sent is from what was sent then, in a line."""
        if not self.gaps:
            return "nothing was sent"
        median, most = 1e3 * np.median(self.gaps), 1e3 * np.max(self.gaps)
        return (
            f"{len(self.gaps)} targets were sent, {median:.1f} mm from the recorded ones in the "
            f"median, {most:.1f} mm at most"
        )

    def connect(self) -> None:
        """Begin."""
        super().connect()
        self.start()

    def state(self) -> ArmState:
        """What the arm was then, as if it were now."""
        self._link.require_connected()
        then, now = self._now(), self._clock.now()
        state, fields = then.state, ArmState.__dataclass_fields__
        values = {name: getattr(state, name) for name in fields}
        return ArmState(**values | {"t": now - max(0.0, then.t - state.t), "seq": then.index})

    def servo(self, target: Target) -> None:
        """Note how far this target is from the one that was sent then [m]."""
        self._link.admit(target)
        recorded = self._now().target
        if recorded is not None:
            self.gaps.append(float(np.linalg.norm(target.position - recorded.position)))

    def gripper(self, width: float, force: float) -> None:
        """Nothing to open."""

    def seen(self) -> Obs:
        """What the policy had last seen by now; LookupError before its first observation."""
        at = bisect.bisect_right(self._seen_at, self._times[0] + self._played() + 1e-9)
        if at == 0:
            raise LookupError("The recorded policy had not observed anything yet")
        return self._seen[at - 1]

    def now(self) -> float:
        """The clock's time [s]."""
        return self._clock.now()

    def _played(self) -> float:
        return self._clock.now() - self._began

    def _now(self) -> Tick:
        at = bisect.bisect_right(self._times, self._times[0] + self._played() + 1e-9)
        return self._ticks[max(0, at - 1)]


class ReplayObjects:
    """Where the recorded policy saw objects."""

    def __init__(self, driver: ReplayDriver) -> None:
        self._driver = driver

    def positions(self) -> tuple[Mapping[str, NDArray[np.floating]], float]:
        """Positions [m] by what they were observed as, absolutely or from the hand."""
        seen = self._driver.seen()
        places = {n.removesuffix("_position"): x for n, x in seen.items() if _is_place(n)}
        for name, value in seen.items():
            if name.endswith("_from_ee") and "ee_position" in seen:
                places.setdefault(name.removesuffix("_from_ee"), value + seen["ee_position"])
        return places, self._driver.now()


def _is_place(name: str) -> bool:
    return name.endswith("_position") and name != "ee_position"


class ReplayEye:
    """A camera's recorded pictures, which are already cut as the policy sees them."""

    def __init__(self, driver: ReplayDriver, name: str, intrinsics: Intrinsics) -> None:
        self._driver, self._name, self.intrinsics = driver, name, intrinsics
        self._seq = 0

    def latest(self) -> Frame | None:
        """The newest picture; None before the first."""
        try:
            seen = self._driver.seen()[self._name]
        except LookupError:
            return None
        self._seq += 1
        return Frame(seen, self._driver.now(), self._seq)
