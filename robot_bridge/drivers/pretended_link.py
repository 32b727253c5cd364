"""The link to an arm that is not there: connected and armed in the same order as a real one."""

from typing import Literal

from robot_bridge.driver import ArmToken, DriverError, Mode, Target, require_finite, require_token


class PretendLink:
    """Keeps the order of connect, arm, servo, stop for simulated arms.

    Args:
        name: of the arm in messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._connected = self._armed = False

    @property
    def mode(self) -> Mode:
        """MOVING while armed."""
        return Mode.MOVING if self._armed else Mode.IDLE

    def connect(self) -> None:
        """Nothing to open; it only has to come first."""
        self._connected = True

    def arm(self, token: ArmToken) -> None:
        """Take targets from now on."""
        self.require_connected()
        require_token(token, "arm")
        self._armed = True

    def disarm(self) -> None:
        """Take no more targets."""
        self._armed = False

    def close(self) -> None:
        """Let go; it has to be connected again."""
        self._connected = self._armed = False

    def require_connected(self) -> None:
        """Raise DriverError before `connect` and after `close`."""
        if not self._connected:
            raise DriverError(f"{self._name} is not connected; call connect() first")

    def admit(self, target: Target) -> None:
        """Raise DriverError for a target that is not finite, or before arming."""
        require_finite(target)
        if not self._armed:
            raise DriverError(f"{self._name} is not armed")


class PretendedArm:
    """What all drivers of arms that are not there do alike.

    Args:
        name: of the arm in messages.
    """

    def __init__(self, name: str) -> None:
        self._link = PretendLink(name)

    def connect(self) -> None:
        """Nothing to open; it only has to come first."""
        self._link.connect()

    def arm(self, token: ArmToken) -> None:
        """Take targets from now on."""
        self._link.arm(token)

    def hold(self) -> None:
        """Nothing to hold."""

    def stop(self, kind: Literal["soft", "protective"]) -> None:
        """Stay and take no more targets."""
        del kind
        self.hold()
        self._link.disarm()

    def recover(self, token: ArmToken) -> None:
        """Nothing to clear."""
        require_token(token, "recover")

    def close(self) -> None:
        """Nothing to let go of; it has to be connected again."""
        self._link.close()
