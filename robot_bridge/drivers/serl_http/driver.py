"""The arm behind a SERL or HIL-SERL robot server: their HTTP routes, as a careful client.

    driver = SerlHttpDriver("http://127.0.0.1:5000", robot=panda())

What those servers do not say, this driver cannot know: whether the arm is in a reflex or stopped
by hand, and how old their own state is. They clear errors before every command of their own
client; this one asks for `/clearerr` only in `recover`, with a person's token. Units and frames as
they send them: base frame, xyzw. Their end effector must be set to RobotSpec's tool centre in Desk;
`connect` compares it with the joints.
"""

import collections
import contextlib
import math
from typing import Literal, NamedTuple

import numpy as np

from robot_bridge.compliance import Compliance
from robot_bridge.driver import (
    ArmInfo,
    ArmState,
    ArmToken,
    DriverError,
    Mode,
    Target,
    Vector,
    require_connected,
    require_finite,
    require_token,
)
from robot_bridge.drivers.polling import Poller, Worker
from robot_bridge.drivers.serl_http.json_server import HttpError, JsonServer
from robot_bridge.drivers.serl_http.state import SerlState, parse_state
from scenes.contract.errors import InputError
from scenes.contract.robot import RobotSpec

# A loopback request takes 2 ms; a server that needs longer than the first two is in trouble [s].
_STATE_TIMEOUT, _POSE_TIMEOUT, _SLOW_TIMEOUT = 0.25, 0.25, 10.0
_PERIOD = 0.002
_PATIENCE = 0.5
_START = 3.0
# Readings over which the link is judged.
_WINDOW = 50


class _Links(NamedTuple):
    """What is open: the newest state, and who posts poses, grips and the controller's gains."""

    states: Poller[SerlState]
    poses: Worker
    grips: Worker
    params: Worker


def parameters(compliance: Compliance) -> dict[str, float]:
    """What their `/update_param` takes; the integral gains are switched off, as in SERL's tasks."""
    named: dict[str, float] = {"translational_Ki": 0.0, "rotational_Ki": 0.0}
    for kind, clip in (
        ("translational", compliance.translational_clip),
        ("rotational", compliance.rotational_clip),
    ):
        named |= {
            f"{kind}_stiffness": getattr(compliance, f"{kind}_stiffness"),
            f"{kind}_damping": getattr(compliance, f"{kind}_damping"),
        }
        for axis, most in zip("xyz", clip, strict=True):
            named |= {f"{kind}_clip_{axis}": most, f"{kind}_clip_neg_{axis}": most}
    return named


class SerlHttpDriver:
    """See `driver.ArmDriver`; `recover`, `arm` after a protective stop, wait for the server.

    Args:
        url: of the server; this machine's, unless `allow_remote` is said in so many words.
        robot: the arm it drives.
        gripper_readings: what it says for a closed and an open gripper; HIL-SERL (0, 1), SERL's
            Franka hand the width (0, 0.08), its Robotiq (255, 0).
        allow_remote: let the network between here and the server move the arm.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:5000",
        *,
        robot: RobotSpec,
        gripper_readings: tuple[float, float] = (0.0, 1.0),
        allow_remote: bool = False,
    ) -> None:
        self.robot = robot
        closed, opened = gripper_readings
        if not (np.isfinite((closed, opened)).all() and closed != opened):
            raise InputError(
                f"gripper_readings {closed:g} {opened:g}, allowed: two different numbers"
            )
        self._server = JsonServer(url, allow_remote)
        self._readings = gripper_readings
        self._arrived: collections.deque[bool] = collections.deque(maxlen=_WINDOW)
        self._links: _Links | None = None
        self._compliance: Compliance | None = None  # None leaves the server's own
        self._info: ArmInfo | None = None
        self._armed = self._impedance_stopped = False
        self._open: bool | None = None

    @property
    def info(self) -> ArmInfo:
        """What is connected; DriverError before `connect`."""
        return require_connected(self._info)

    def connect(self) -> None:
        """Begin to ask for states; DriverError where no server answers."""
        states = Poller(self._read, period=_PERIOD, patience=_PATIENCE)
        self._links = _Links(states, Worker(), Worker(), Worker())
        try:
            states.first(_START)
        except DriverError:
            self.close()
            raise
        self._info = ArmInfo(
            robot=self.robot.name,
            serial=self._server.url,  # the server does not tell
            firmware="SERL HTTP",
            takes="pose",
            compliance="standing",
        )

    def arm(self, token: ArmToken) -> None:
        """Make the measured pose the target; restarts the impedance where we have stopped it."""
        require_token(token, "arm")
        if self._armed:
            raise DriverError("The arm is armed already; stop it first")
        state = self.state()
        if state.faults:
            raise DriverError(f"Cannot arm while {state.faults}; look at the server")
        if self._impedance_stopped:
            self._wait_for("/startimp")
            self._impedance_stopped = False
        if self._compliance is not None:
            self._wait_for("/update_param", parameters(self._compliance))
        self._post_pose(self._open_links().states.newest().value.pose)
        self._armed = True

    def state(self) -> ArmState:
        """The newest answer; DriverError where the server is lost."""
        links = self._open_links()
        reading = links.states.newest()
        failed = {"not_sent": links.poses.error, "compliance": links.params.error}
        raw, (closed, opened) = reading.value, self._readings
        low, high = self.robot.parallel_gripper.width_range
        x, y, z, w = raw.pose[3:]
        return ArmState(
            t=reading.t,
            seq=reading.seq,
            q=raw.q.copy(),
            dq=raw.dq.copy(),
            position=raw.pose[:3].copy(),
            quat=np.array([w, x, y, z]),
            gripper_width=low + (high - low) * (raw.gripper - closed) / (opened - closed),
            mode=Mode.MOVING if self._armed else Mode.IDLE,
            faults=tuple(f"{what}: {error}" for what, error in failed.items() if error),
            link_quality=sum(self._arrived) / max(1, len(self._arrived)),
            twist=raw.twist.copy(),
        )

    def servo(self, target: Target) -> None:
        """Send this pose as soon as the one before is through; the latest wins."""
        require_finite(target)
        self._require_armed()
        w, x, y, z = target.quat
        self._post_pose(np.array([*target.position, x, y, z, w]))

    def gripper(self, width: float, force: float) -> None:
        """Open or close, whichever the width [m] is nearer to; these servers choose the force."""
        self._require_armed()
        if not (math.isfinite(width) and math.isfinite(force)):
            raise DriverError("A width and a force must be finite")
        opened = width > 0.5 * sum(self.robot.parallel_gripper.width_range)
        if opened != self._open:
            self._open = opened
            path = "/open_gripper" if opened else "/close_gripper"
            self._open_links().grips.put(lambda: self._server.post(path, timeout=_SLOW_TIMEOUT))

    def comply(self, compliance: Compliance) -> None:
        """Have the server's controller yield so; see `compliance.Compliant`."""
        self._compliance = compliance
        if self._armed:
            body, job = parameters(compliance), self._server.post
            path, timeout = "/update_param", _SLOW_TIMEOUT
            self._open_links().params.put(lambda: job(path, body, timeout=timeout))

    def hold(self) -> None:
        """Make the measured pose the target."""
        if self._armed:
            self._post_pose(self._open_links().states.newest().value.pose)

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Stay at the measured pose ("soft"), or have the server end its impedance control."""
        if self._armed:
            with contextlib.suppress(DriverError):  # a lost state must not keep us from stopping
                self.hold()
        if self._armed and kind == "protective":
            self._impedance_stopped = True
            job = self._server.post
            self._open_links().poses.put(lambda: job("/stopimp", timeout=_SLOW_TIMEOUT))
        self._armed = False

    def recover(self, token: ArmToken) -> None:
        """Have the server clear the arm's error; it must be armed again."""
        require_token(token, "recover")
        links = self._open_links()
        self._armed = False
        self._wait_for("/clearerr")
        links.poses.error = links.params.error = ""

    def close(self) -> None:
        """Hold, and stop asking."""
        if self._links is None:
            return
        self.stop("soft")
        links, self._links = self._links, None
        links.poses.close(drain=True)
        links.grips.close()
        links.params.close(drain=True)
        links.states.close()

    # -- inside ----------------------------------------------------------------------------------

    def _read(self) -> SerlState:
        try:
            answer = self._server.ask("/getstate", timeout=_STATE_TIMEOUT)
            state = parse_state(answer, self.robot.num_joints)
        except HttpError:
            self._arrived.append(False)
            raise
        self._arrived.append(True)
        return state

    def _post_pose(self, pose: Vector) -> None:
        body = {"arr": pose.tolist()}
        job = self._server.post
        self._open_links().poses.put(lambda: job("/pose", body, timeout=_POSE_TIMEOUT))

    def _wait_for(self, path: str, body: dict[str, float] | None = None) -> None:
        try:
            self._server.post(path, body, timeout=_SLOW_TIMEOUT)
        except HttpError as error:
            raise DriverError(f"The server did not do it: {error}") from None

    def _open_links(self) -> _Links:
        if self._links is None:
            raise DriverError("The arm is not connected; call connect() first")
        return self._links

    def _require_armed(self) -> None:
        self._open_links()
        if not self._armed:
            raise DriverError("The arm is not armed; a person must confirm first")
