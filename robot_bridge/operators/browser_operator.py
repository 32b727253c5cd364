"""The page in the browser as an operator's device."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from robot_bridge.operators.page_wire import AXES, InputFrame, Order
from scenes.contract.operator import Axes, OperatorEvent, OperatorInput, said
from scenes.contract.specs import FORCES, GRIPPER, TORQUES

# Without a frame for this long, everything counts as let go [s].
SILENCE = 0.15
# Without one for this long nobody is there: an idle page sends five a second [s].
ABSENCE = 1.0
_MOST_ORDERS = 32  # that wait to be carried out
_FORCES: Mapping[str, str] = dict(zip(AXES, (*FORCES, *TORQUES), strict=True))
EVENTS: tuple[OperatorEvent, ...] = ("success", "failure", "cut")


class BrowserOperator:
    """An Operator that hears of the page from the server's thread and is polled from another's.

    Attributes:
        on_stop: called by the server's thread as soon as stop is pressed; None where nothing is to
            be stopped.

    Args:
        names: of the action's entries, for `Axes`.
        facing: as of `Axes`.
    """

    help_text = "W/S forward/back   A/D left/right   J/K up/down   L gripper   ; drive"

    def __init__(self, names: Sequence[str], *, facing: float = 0.0) -> None:
        self.on_stop: Callable[[], None] | None = None
        self._names = tuple(names)
        self._axes = Axes(names, facing=facing)
        self._lock = threading.Lock()
        self._frame: InputFrame | None = None
        self._heard = -np.inf
        self._pressed: list[str] = []  # since the last poll
        self._orders: deque[Order] = deque(maxlen=_MOST_ORDERS)

    @property
    def lost(self) -> str | None:
        """Nothing ever ends it: a page may be opened again."""
        return None

    @property
    def frame(self) -> InputFrame | None:
        """What came last."""
        return self._frame

    @property
    def undriven(self) -> tuple[str, ...]:
        """Entries of the action that no key, stick or button of the page moves."""
        moved = {*AXES, *_FORCES.values(), GRIPPER}
        return tuple(name for name in self._names if name not in moved)

    def awake(self, now: float) -> bool:
        """Whether somebody has touched the page lately, or wants to watch."""
        return self._held("awake", now, ABSENCE)

    def marks(self, now: float) -> bool:
        """Whether the person says that what is seen now is a success."""
        return self._held("mark", now, SILENCE)

    def _held(self, name: str, now: float, silence: float) -> bool:
        frame, heard = self._frame, self._heard
        return frame is not None and name in frame.held and now - heard < silence

    def open(self) -> None:
        """Begin with nothing held."""
        self.release()

    def close(self) -> None:
        """Let go."""
        self.release()

    def release(self) -> None:
        """Let go, as when the page is closed; a new page's frames count from anew."""
        with self._lock:
            self._frame, self._heard, self._pressed = None, -np.inf, []

    def hear(self, frame: InputFrame, now: float) -> None:
        """Take a frame that came at `now` [s]; one that is older than the last is dropped."""
        with self._lock:
            last = self._frame
            if last is not None and frame.seq <= last.seq:
                return
            before = last.held if last is not None else frozenset[str]()
            pressed = frame.held - before
            self._pressed += sorted(pressed)
            self._frame, self._heard = frame, now
        if "stop" in pressed:
            self.stop()

    def stop(self) -> None:
        """Stop what is driven, whoever says it."""
        if self.on_stop is not None:
            self.on_stop()

    def order(self, order: Order) -> None:
        """Take what was chosen on the page."""
        self._orders.append(order)

    def take_order(self) -> Order | None:
        """Return what was chosen first and not taken yet; None mostly."""
        return self._orders.popleft() if self._orders else None

    def poll(self, now: float) -> OperatorInput | None:
        """Return what is held at `now` [s]."""
        with self._lock:
            frame, pressed, silent = self._frame, self._pressed, now - self._heard > SILENCE
            self._pressed = [name for name in pressed if name == "undo"]
        events: list[OperatorEvent] = [name for name in EVENTS if name in pressed]
        event = events[0] if events else None
        if frame is None or silent:
            return said(None, enabled=False, event=event)
        pushed = dict(frame.axes)
        # Where an action is a wrench, a push is a force.
        pushed |= {_FORCES[axis]: value for axis, value in frame.axes.items()}
        pushed[GRIPPER] = float("close" in frame.held) - float("open" in frame.held)
        # The policy drives on until somebody does.
        enabled = "drive" in frame.held
        return said(self._axes.action(pushed) if enabled else None, enabled=enabled, event=event)

    def take_undo(self) -> bool:
        """Whether the last episode was taken back since the last call."""
        with self._lock:
            asked = "undo" in self._pressed
            self._pressed = [name for name in self._pressed if name != "undo"]
        return asked
