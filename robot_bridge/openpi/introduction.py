"""Another policy before anything is armed: asked, and what its actions are taken for."""

import os
from collections.abc import Callable, Sequence

from robot_bridge.openpi.client import RemotePolicy
from scenes.contract.errors import InputError
from scenes.contract.policy_contract import Contract

POLICY_TOKEN = "MJX_SERL_POLICY_TOKEN"
# Actions of a policy of ours leave [-1, 1] by a little; those of other units by much.
_TOO_LARGE = 1.5


def policy_token() -> str:
    """What a server is asked with, from the environment; "" where there is none."""
    return os.environ.get(POLICY_TOKEN, "")


def read_names(words: Sequence[str]) -> dict[str, str]:
    """Read OURS=THEIRS; InputError where a word is none."""
    pairs = [word.partition("=") for word in words]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise InputError(f"policy-names {words}, allowed: OURS=THEIRS, e.g. front=images/cam")
    return {ours: theirs for ours, _, theirs in pairs}


def introduce(
    remote: RemotePolicy,
    contract: Contract,
    timeout: float,
    say: Callable[[str], None],
    *,
    played: int = 1,
) -> None:
    """Ask a server, and say what its actions are taken for.

    Args:
        remote: the server.
        contract: of the actions.
        timeout: that its answers may take [s].
        say: shows a line.
        played: actions of each answer that are played before the next is asked for.

    Raises RemotePolicyError as `RemotePolicy.handshake` does, InputError where an answer has fewer
    actions than are to be played of it.
    """
    action, met = contract.action, remote.handshake()
    if played > met.horizon:
        raise InputError(
            f"--policy-horizon {played} of a server that answers with {met.horizon} actions, "
            f"allowed: 1 to {met.horizon}"
        )
    say(
        f"server   {met.horizon} actions per observation, {played} of them played, one every "
        f"{1.0 / action.rate:g} s; "
        f"answers in {met.seconds * 1e3:.0f} ms, allowed {timeout * 1e3:.0f} ms"
    )
    units = ", ".join(f"{n} {s:g}" for n, s in zip(action.names, action.scale, strict=True))
    say(f"actions  {action.mode}, what 1 is worth [m], [rad]: {units}")
    if met.largest > _TOO_LARGE:
        say(f"CAUTION  its actions reach {met.largest:.2f}, allowed 1: are they of other units?")
