"""Success as a classifier of pictures sees it, in place of a person at the arm."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from robot_bridge.messages import Ending, Tick
from robot_bridge.policy.policy import start_session
from scenes.contract.errors import InputError
from scenes.contract.manifest import MARGIN_OUTPUT
from scenes.contract.specs import ObsSpec


class PictureJudge:
    """Says that an episode is solved where a classifier sees it in what the policy saw last.

    As in SERL the verdict is passed on the pictures that the next action answers. It computes where
    it is asked, which is not the control loop.

    Args:
        model: an ONNX file that maps pictures by camera to "margin" [1].
        obs: what is observed.

    Raises InputError where the model reads what is not observed.
    """

    def __init__(self, model: bytes, obs: ObsSpec) -> None:
        self._session = start_session(model)
        self._cameras = [entry.name for entry in self._session.get_inputs()]
        missing = [name for name in self._cameras if name not in obs.names]
        if missing:
            raise InputError(f"The classifier of success reads {', '.join(missing)}, not observed")
        self._newest: Mapping[str, NDArray[Any]] | None = None

    def put(self, tick: Tick, obs: Mapping[str, NDArray[Any]] | None = None) -> bool:
        """Take what the policy has seen; never waits."""
        del tick
        self._newest = obs or self._newest
        return True

    def event(self, name: str, **facts: Any) -> bool:
        """Forget the episode before."""
        del facts
        if name == "begin":
            self._newest = None
        return True

    def __call__(self) -> Ending | None:
        """The verdict on what was seen since it was asked last; None goes on."""
        seen, self._newest = self._newest, None
        if seen is None:
            return None
        pictures = {name: seen[name][None] for name in self._cameras}
        (margin,) = self._session.run([MARGIN_OUTPUT], pictures)
        return "success" if margin[0] >= 0.0 else None
