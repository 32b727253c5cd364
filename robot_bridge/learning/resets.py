"""An arm's way to where an episode begins, and how it yields there and on the way."""

from collections.abc import Callable

import numpy as np

from robot_bridge.compliance import Compliance, Compliant
from robot_bridge.control.control_loop import ControlLoop
from robot_bridge.control.judges import Judge
from robot_bridge.control.session import Session
from robot_bridge.driver import ArmDriver, ArmInfo
from robot_bridge.learning.workcell import Start, Workcell, WorkcellConfig
from robot_bridge.safety.limits import Limits
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract


class Resets:
    """Brings an arm home, or to the starts of its workcell.

    Args:
        config: the workcell, None where there is none.
        contract: of the policy, with the arm that is connected as its robot.
        limits: in force.

    Raises InputError as `Workcell` does.
    """

    def __init__(self, config: WorkcellConfig | None, contract: Contract, limits: Limits) -> None:
        self._config = config or WorkcellConfig()
        self._home = np.asarray(contract.home)
        self._cell = None if config is None else Workcell(config, contract, limits)
        # On the way to a start, and there.
        self._switch: tuple[Compliance, Compliance] | None = None

    def announce(self, driver: ArmDriver, say: Callable[[str], None]) -> None:
        """Before it is armed, tell a driver how its arm is to yield, and people what was told.

        Raises InputError for an arm whose driver cannot do what is asked.
        """
        compliance, precision = self._config.compliance, self._config.precision
        if compliance is None:
            return
        require_compliance(self._config, driver.info)
        if driver.info.compliance == "never":
            say("CAUTION  this arm's compliance cannot be set: the workcell's is not used")
            return
        if isinstance(driver, Compliant):  # a dry run is told nothing
            driver.comply(compliance)
            self._switch = None if precision is None else (precision, compliance)
        say(f"yields   {compliance.describe()}")
        if precision is not None:
            say(f"         on the way to a start {precision.describe()}")

    def go(
        self, session: Session, control: ControlLoop, number: int, *, in_place: bool = False
    ) -> bool:
        """Bring the arm to where an episode begins, by its number; TimeoutError as `home` does.

        One that begins `in_place`, where the arm is, only goes home where its joints are due to.
        Returns whether the arm went.
        """
        if in_place and not self._config.joints_due(number):
            return False
        start = Start([self._home]) if self._cell is None else self._cell.start(number)
        if self._switch is not None:
            control.comply(self._switch[0])
        for q in start.way:
            session.home(q.tolist())
        if self._switch is not None:
            control.comply(self._switch[1])
        control.start_quat = start.quat
        return True

    def judge(self, control: ControlLoop) -> Judge | None:
        """Who says that the tool has arrived, None without a workcell."""
        return None if self._cell is None else self._cell.judge(lambda: control.latest)


def require_compliance(config: WorkcellConfig, info: ArmInfo) -> None:
    """Raise InputError where a workcell asks for a compliance that an arm's driver cannot set."""
    if info.compliance == "never" and not info.simulated:
        raise InputError(
            f"Workcell: this {info.robot}'s driver sets no compliance; leave out compliance and "
            "precision, allowed with --robot franka, franka-rs and serl-http"
        )
    if info.compliance == "arming" and config.precision not in (None, config.compliance):
        raise InputError(
            "Workcell: this driver sets the compliance once, when the arm is armed; leave out "
            "precision, allowed with --robot franka and serl-http"
        )
