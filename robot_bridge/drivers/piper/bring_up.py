"""What takes its time with a Piper, done while connecting and arming: ask, set, read back."""

import re
import time

from robot_bridge.driver import ArmInfo, DriverError
from robot_bridge.drivers.piper.can_frames import CAN_CONTROL, CRASH_LEVELS, MOVE_J, SLOW
from robot_bridge.drivers.piper.link import PiperLink
from robot_bridge.drivers.polling import wait_for

# First firmware with the zero of joints 2 and 3 that scenes.robots.piper has (robot_bridge.md 6).
OLDEST_FIRMWARE = (1, 6, 3)
# Firmwares that must not be driven, and why, with where it was reported. Nothing that the arm says
# of itself would show it.
BAD_FIRMWARE: dict[tuple[int, ...], str] = {
    (1, 8, 6): "the arm's real pose leaves the one that it reports (piper_sdk issues 119 and 120)",
}
_POLL = 0.005  # [s]
_ASK_AGAIN = 0.2  # [s] the SDK may forget the first part of an answer that comes at once
_ENABLE_PERIOD, _ENABLE_SECONDS = 0.02, 2.0  # piper_sdk issue 66: once is not enough


def identify(link: PiperLink) -> ArmInfo:
    """Read firmware and limits. DriverError for a firmware that must not be driven."""
    firmware = _read_firmware(link)
    numbers = tuple(int(n) for n in re.findall(r"\d+", firmware))
    if numbers < OLDEST_FIRMWARE:
        raise DriverError(
            f"Piper firmware {firmware} has other zero positions of joints 2 and 3 (10 mm at the "
            "flange); update it to S-V1.6-3 or newer with AgileX's tool"
        )
    if numbers in BAD_FIRMWARE:
        raise DriverError(
            f"Piper firmware {firmware}: {BAD_FIRMWARE[numbers]}, which no limit of ours sees; "
            "install another one with AgileX's tool, e.g. S-V1.8-2"
        )
    limits = _read_limits(link)
    low, high, speed = zip(*limits, strict=True) if limits else (None, None, None)
    return ArmInfo(
        robot="piper",
        # The arm tells no serial number: what it is plugged into stands for it.
        serial=f"piper@{link.channel}",
        firmware=firmware,
        takes="joints",
        simulated=link.interface == "virtual",
        q_min=low,
        q_max=high,
        dq_max=speed,
    )


def _read_firmware(link: PiperLink) -> str:
    """Ask until the whole version is there."""
    for _ in range(5):
        link.sdk.SearchPiperFirmwareVersion()
        deadline = time.monotonic() + _ASK_AGAIN
        while time.monotonic() < deadline:
            answer = link.sdk.GetPiperFirmwareVersion()
            # The SDK cuts it to 8 characters: "S-V1.8-2", and "S-V1.10-" of a longer one.
            if isinstance(answer, str) and re.fullmatch(r"S-V(?=.{5}$)\d+\.\d+-\d*", answer):
                return answer
            time.sleep(_POLL)
    raise DriverError("The Piper does not tell its firmware; is it AgileX's, and powered?")


def _read_limits(link: PiperLink) -> tuple[tuple[float, float, float], ...] | None:
    """What the arm enforces; None where it does not answer."""
    for _ in range(3):
        link.sdk.SearchAllMotorMaxAngleSpd()
        deadline = time.monotonic() + _ASK_AGAIN
        while time.monotonic() < deadline:
            if link.feedback.limits is not None:
                return link.feedback.limits
            time.sleep(_POLL)
    return None


def set_crash_level(link: PiperLink, level: int) -> None:
    """Switch collision detection of all joints to `level` and read it back."""
    feedback = link.feedback

    def ask() -> bool:
        link.sdk.ArmParamEnquiryAndConfig(param_enquiry=0x02)
        return feedback.received(CRASH_LEVELS) > asked and set(got()) == {level}

    def got() -> tuple[int, ...]:
        return tuple(feedback.data(CRASH_LEVELS)[:6])

    asked = link.now()
    link.sdk.CrashProtectionConfig(*[level] * 6)
    wait_for(ask, 0.5, complaint=f"The Piper did not take collision detection level {level}")


def enable(link: PiperLink, *, speed: int) -> None:
    """Power the motors where they stand; DriverError names those that stay off.

    The measured joints are made the target first, so that one left from before is not chased.
    """
    feedback = link.feedback
    began = link.now()
    link.command(feedback.raw_joints, speed=speed)
    for attempt in range(round(_ENABLE_SECONDS / _ENABLE_PERIOD)):
        link.sdk.EnableArm(7)
        time.sleep(_ENABLE_PERIOD)
        told = all(feedback.received(i) > began for i in SLOW)
        if attempt > 0 and told and all(feedback.enabled):
            break
    else:
        off = [f"joint{i}" for i, on in enumerate(feedback.enabled, 1) if not on]
        raise DriverError(f"The Piper's motors stay off: {', '.join(off) or 'none answered'}")
    link.command(feedback.raw_joints, speed=speed)
    wait_for(
        lambda: (feedback.status.control, feedback.status.move) == (CAN_CONTROL, MOVE_J),
        0.5,
        complaint="The Piper did not go into CAN control; is its teach button lit?",
    )
