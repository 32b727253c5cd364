"""An arm's link to the learner: its steps go out, parameters come in, between episodes or steps."""

import logging
import math
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from robot_bridge.learning.experience import Experience
from robot_bridge.learning.learned_policy import LearnedPolicy
from robot_bridge.network.endpoints import ClientKeys, parse_address
from robot_bridge.network.keys import default_folder, load_pair
from robot_bridge.network.spool import Spool
from robot_bridge.network.transition_client import TransitionClient
from robot_bridge.policy.bundle import Bundle
from scenes.contract.errors import InputError
from scenes.contract.ranges import check_ranges, ranged
from scenes.contract.specs import ObsSpec

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.2  # between two looks for newer parameters while a policy acts [s]


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """A learner elsewhere (`learn.py`), which gets what the arm does and sends newer parameters.

    Attributes:
        learner: where it is: the folder or HOST:PORT that it was given with --listen; None learns
            nothing.
        learner_key: its public key, needed beyond this machine.
        actor_name: of this actor, and of its NAME.key.
        spool: folder that keeps steps until the learner has them on its disk.
        grace: how long episodes go on while nothing is heard of the learner [s].
        jump: mean absolute change of actions in [-1, 1] that one version of the parameters may
            make on what was seen last; a person consents to it with the run. 2 allows any.
        explore: act with the noise of training; else without.
        noise_seed: of that noise; None is another one each time.
    """

    learner: str | None = None
    learner_key: str | None = None
    actor_name: str = "actor"
    spool: Path | None = None
    grace: float = ranged(600.0, least=0)
    jump: float = ranged(2.0, above=0, most=2)
    explore: bool = True
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def connect(self, spool: Spool | None = None) -> TransitionClient:
        """Connect to the learner; InputError for an address that is none, or a missing key."""
        assert self.learner is not None
        address, keyed = parse_address(self.learner)
        keys = None
        if keyed:
            if self.learner_key is None:
                raise InputError(f"'{self.learner}' is beyond this machine: give --learner-key")
            keys = ClientKeys(
                self.learner_key, load_pair(default_folder() / f"{self.actor_name}.key")
            )
        return TransitionClient(address, spool=spool, keys=keys)

    def policy(self, bundle: Bundle) -> LearnedPolicy:
        """The policy whose parameters will be replaced; InputError for one that does not learn."""
        if bundle.explore is None:
            raise InputError(
                f"Bundle '{bundle.path}' is of a policy that does not learn any more; allowed: the "
                "folder 'actor' in the learner's run folder"
            )
        contract, manifest = bundle.contract, bundle.manifest
        return LearnedPolicy(
            bundle.explore,
            bundle.parameters,
            contract.inputs,
            horizon=manifest.horizon,
            action_dim=contract.action.dim,
            jump=self.jump,
            noisy=self.explore,
            seed=secrets.randbits(32) if self.noise_seed is None else self.noise_seed,
        )


class LearnerLink:
    """What the arm does goes to the learner.

    Attributes:
        experience: takes ticks and events.
        client: of the learner.
        policy: of this process, that gets newer parameters before each episode; None elsewhere.

    Args:
        config: with an address.
        obs: what is observed.
        say: shows a line.
    """

    def __init__(self, config: LearningConfig, obs: ObsSpec, say: Callable[[str], None]) -> None:
        self._config, self._say = config, say
        self.client = config.connect(Spool(config.spool))
        self.experience = Experience(self.client, obs)
        self.policy: LearnedPolicy | None = None
        if self.client.pending:
            say(f"learner  {self.client.pending} batches of before are sent first")

    def teach(self, policy: LearnedPolicy) -> None:
        """Let a policy of this process have the newest parameters before each episode."""
        self.policy = policy

    def next_turn(self) -> bool:
        """Wait until another episode may begin; False where the learner has been gone too long."""
        self.experience.settle()
        waited = False
        while not self.client.wait(1.0):
            if self.client.silent > self._config.grace:
                break
            if not waited:
                self._say("learner  the arm waits until it has caught up")
            waited = True
        if self.client.silent > self._config.grace:
            self._say(f"learner  nothing was heard of it for {self._config.grace:g} s")
            return False
        if self.policy is not None:
            refresh(self.policy, self.client, self._say)
        return True

    @property
    def told(self) -> str:
        """What came of it, in a line."""
        gone, kept, lost = self.experience.steps, self.client.pending, self.experience.lost
        waits = f", {kept} batches wait in the spool" if kept else ""
        offset, age = self.client.offset, self.client.age
        clock = (
            f"; its clock {offset.seconds:+.3f} s from ours, round trip "
            f"{offset.round_trip * 1e3:.1f} ms"
            if math.isfinite(offset.round_trip)
            else ""
        )
        newest = f", its parameters {age:.1f} s old" if math.isfinite(age) else ""
        return f"{gone} steps to the learner, {lost} lost{waits}{clock}{newest}"

    def close(self) -> None:
        """Hand over what is left."""
        self.experience.close()
        self.client.flush(2.0)
        self.client.close()


def refresh(
    policy: LearnedPolicy, client: TransitionClient, say: Callable[[str], None] = _LOG.warning
) -> None:
    """Give a policy the newest parameters, if there are newer ones; says why not."""
    newest = client.parameters
    refused = None if newest is None else policy.take(newest)
    if refused is not None:
        say(f"CAUTION  {refused}")


class Refresher:
    """Gives a policy that acts the newest parameters, in a thread of its own."""

    def __init__(self, policy: LearnedPolicy, client: TransitionClient) -> None:
        self._policy, self._client = policy, client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="parameters", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and let go of the learner."""
        self._over.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        told = -1
        while not self._over.wait(_LOOK_S):
            newest = self._client.parameters
            # One that was refused is not tried again.
            if newest is not None and newest.version != told:
                told = newest.version
                refresh(self._policy, self._client)
