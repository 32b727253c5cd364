"""Who says how an episode ended: each returns an `Ending`, or None while it goes on."""

from collections.abc import Callable

from robot_bridge.control.control_loop import ControlLoop
from robot_bridge.messages import Ending

Judge = Callable[[], Ending | None]


def first_of(*judges: Judge) -> Judge:
    """What the first of some judges says that says anything."""
    return lambda: next((said for judge in judges if (said := judge()) is not None), None)


def but_success(judge: Judge) -> Judge:
    """All that a judge says but that it is solved, which is for another to say."""

    def rest() -> Ending | None:
        said = judge()
        return None if said == "success" else said

    return rest


def blocked(control: ControlLoop) -> Judge:
    """Cuts an episode in which the arm has run into something, as exploring does.

    It does so before that is a fault, at half of `following_max_age`.
    """
    limit = 0.5 * control.limits.following_max_age
    return lambda: "cut" if control.blocked > limit else None
