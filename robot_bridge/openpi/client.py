"""A policy that runs elsewhere behind openpi's websocket protocol: ours, or one of openpi's own.

All talking is done by a thread; `act` waits for it no longer than a deadline, whatever the network
does, so that a policy's loop goes on and the arm holds.
"""

import logging
import queue
import random
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from robot_bridge.network.codec import CodecError
from robot_bridge.openpi.wire import MAX_BYTES, PROMPT, pack, unpack
from robot_bridge.policy.observation import Obs
from scenes.contract.errors import InputError, UnknownNameError
from scenes.contract.extras import require
from scenes.contract.manifest import NOISE_INPUT
from scenes.contract.names import unknown_name
from scenes.contract.policy_contract import Contract
from scenes.contract.serialize import digest
from scenes.contract.specs import GRIPPER

_LOG = logging.getLogger(__name__)
_PATIENCE = 2.0  # for an answer that `act` no longer waits for, then the connection is cut [s]
_BACKOFF = (0.1, 5.0)  # first and longest pause between attempts to connect [s]


GripperConvention = Literal["same", "unit", "opposite"]
# Factor and offset that make an entry ours.
_GRIPPERS: Mapping[str, tuple[float, float]] = {
    "same": (1.0, 0.0),
    "unit": (2.0, -1.0),
    "opposite": (-1.0, 0.0),
}


class RemotePolicyError(RuntimeError):
    """No actions now; the message says why."""


class RemotePolicyTimeout(RemotePolicyError, TimeoutError):  # noqa: N818 (a time-out by name)
    """The server did not answer in time."""


@dataclass(frozen=True, kw_only=True)
class RemotePolicyConfig:
    """Which server, and how its names are called here.

    Attributes:
        uri: ws:// or wss://.
        token: sent as `Authorization: Api-Key TOKEN`.
        tls: for wss:// with a certificate of one's own.
        timeout: of one `act` [s].
        names: the server's names by ours, the rest are the same.
        prompt: what is to be done, sent along in words: the server makes its own numbers of them.
            "" says what the contract says, if anything.
        gripper: of the server's actions: "same" is ours, added to the closure (1 closes, -1 opens,
            0 keeps); "unit" is 0 open to 1 closed, as DROID's; "opposite" is 1 open, -1 closed.
        require_contract: False for servers of openpi's own, which do not tell what they were
            trained for; their actions' width is still checked.
    """

    uri: str
    token: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    timeout: float = 0.15
    names: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    gripper: GripperConvention = "same"
    require_contract: bool = True

    def __post_init__(self) -> None:
        if urlsplit(self.uri).scheme not in ("ws", "wss") or not urlsplit(self.uri).hostname:
            raise InputError(f"Policy server '{self.uri}', allowed: ws://HOST:PORT or wss://...")
        if not 0.0 < self.timeout <= 2.0:
            raise InputError(f"Time-out {self.timeout:g} s, allowed: above 0, at most 2")
        if self.gripper not in _GRIPPERS:
            raise UnknownNameError(unknown_name("gripper convention", self.gripper, _GRIPPERS))


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """How a server answered before it was needed.

    Attributes:
        horizon: actions per observation.
        seconds: for one answer [s].
        largest: entry of its actions; ours are in [-1, 1].
    """

    horizon: int
    seconds: float
    largest: float


@dataclass(slots=True)
class _Question:
    data: bytes
    deadline: float
    answer: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)


class RemotePolicy:
    """A Policy: `reset` and `act`; connects by itself and again when the connection is lost.

    Args:
        contract: what the server's policy must have been trained for.
        config: see RemotePolicyConfig.
    """

    def __init__(self, contract: Contract, config: RemotePolicyConfig) -> None:
        self._sync = require("websockets.sync.client", "bridge")
        self._contract, self._config = contract, config
        self._digest = digest(contract)
        self._words = prompt_of(contract, config.prompt)
        self._told = {f.name for f in contract.obs.of_kind("tokens")}
        unknown = [name for name in config.names if name not in contract.obs.names]
        if unknown:
            raise UnknownNameError(unknown_name("observation", unknown[0], contract.obs.names))
        self._why = "not connected yet"
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._busy = threading.Lock()
        self.metadata: Mapping[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="remote policy", daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Do nothing: the protocol has no such message, and served policies carry no state."""

    @property
    def noise_shape(self) -> tuple[int, int] | None:
        """Of the noise [H, A] by which its server lets it be steered; None where it does not."""
        told = self.metadata.get(NOISE_INPUT)
        shape = told.get("shape") if isinstance(told, dict) else None
        if not (isinstance(shape, list) and [type(n) for n in shape] == [int, int]):
            return None
        return shape[0], shape[1]

    def act(self, obs: Obs, *, noise: NDArray[np.floating] | None = None) -> NDArray[np.floating]:
        """Return actions [H, A]; RemotePolicyError, within `timeout`, where there are none.

        `noise` of `noise_shape` is what the policy starts from, in place of its own; it is refused
        by a server that does not say that it takes any.
        """
        return self._asked(obs, self._config.timeout, noise)

    def handshake(self, *, seconds: float = 60.0) -> Handshake:
        """Connect, and ask twice, with an observation of zeros, before anything depends on it.

        RemotePolicyError where there is no answer, one of another shape, one that is not finite,
        or the second one is later than `timeout`. The first may take long: servers compile then.
        """
        self.wait(min(seconds, 10.0))
        obs = {
            f.name: np.full(f.shape, 127 if f.dtype == "uint8" else 0, f.dtype)
            for f in self._contract.obs.fields
        }
        self._asked(obs, seconds)
        began = time.monotonic()
        actions = self._asked(obs, seconds)
        took = time.monotonic() - began
        if not np.isfinite(actions).all():
            raise RemotePolicyError(f"The server's actions are not finite: {actions[0].tolist()}")
        if took > self._config.timeout:
            raise RemotePolicyError(
                f"The server needs {took:.3f} s, allowed: {self._config.timeout:g} s; a longer "
                "time-out is --policy-timeout, at most 2"
            )
        return Handshake(horizon=len(actions), seconds=took, largest=float(np.abs(actions).max()))

    def _asked(
        self, obs: Obs, timeout: float, noise: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        if not self._connected.is_set():
            raise RemotePolicyError(f"No policy at {self._config.uri}: {self._why}")
        if noise is not None and noise.shape != self.noise_shape:
            allowed = self.noise_shape or "none, its policy cannot be steered"
            raise RemotePolicyError(f"Noise {noise.shape} for the server, allowed: {allowed}")
        if not self._busy.acquire(blocking=False):
            raise RemotePolicyTimeout("The server has not answered the last observation yet")
        named = {
            self._config.names.get(name, name): value
            for name, value in obs.items()
            if name not in self._told
        }
        try:
            data = pack(named | self._words | ({} if noise is None else {NOISE_INPUT: noise}))
        except CodecError:
            self._busy.release()
            raise
        question = _Question(data, time.monotonic() + timeout)
        self._questions.put(question)
        try:
            answer = question.answer.get(timeout=timeout)
        except queue.Empty:
            limit = f"{timeout * 1e3:.0f} ms"
            raise RemotePolicyTimeout(f"The policy did not answer within {limit}") from None
        if isinstance(answer, Exception):
            raise RemotePolicyError(str(answer)) from None
        return answer

    def wait(self, seconds: float) -> None:
        """Block until connected; RemotePolicyError says why not."""
        if not self._connected.wait(seconds):
            raise RemotePolicyError(f"No policy at {self._config.uri}: {self._why}")

    def close(self) -> None:
        """Hang up."""
        self._stopping.set()
        self._questions.put(None)
        self._thread.join(timeout=_PATIENCE + 1.0)

    def __enter__(self) -> "RemotePolicy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- its thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        pause, longest = _BACKOFF
        while not self._stopping.is_set():
            try:
                with self._connect() as connection:
                    self._check_metadata(connection)
                    pause = _BACKOFF[0]
                    self._talk(connection)
            except Exception as error:  # whatever it is, the link is down and is tried again
                self._why = f"{type(error).__name__}: {error}"[:300]
                _LOG.info("The link to %s is down: %s", self._config.uri, self._why)
            self._connected.clear()
            # Clients that lost the same server do not all come back at once.
            self._stopping.wait(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)

    def _connect(self) -> Any:
        token = self._config.token
        return self._sync.connect(
            self._config.uri, ssl=self._config.tls, compression=None, max_size=MAX_BYTES,
            open_timeout=3.0, close_timeout=0.5, proxy=None,
            additional_headers={"Authorization": f"Api-Key {token}"} if token else None,
        )  # fmt: skip

    def _check_metadata(self, connection: Any) -> None:
        metadata = unpack(_frame(connection.recv(timeout=3.0)))
        if not isinstance(metadata, dict):
            raise CodecError(f"Metadata: got {type(metadata).__name__}, allowed: a map")
        told = metadata.get("contract")
        if told is None and self._config.require_contract:
            raise CodecError("The server does not tell its contract; allow that in the config")
        if told is not None and told != self._digest:
            raise CodecError(
                f"Contract of the server's policy: got {str(told)[:12]} "
                f"({metadata.get('action_names')}), allowed: {self._digest[:12]}"
            )
        rate = metadata.get("action_rate")
        if rate is not None and rate != self._contract.action.rate:
            allowed = self._contract.action.rate
            raise CodecError(f"Rate of the server's actions: got {rate} Hz, allowed: {allowed} Hz")
        self.metadata = metadata

    def _talk(self, connection: Any) -> None:
        """Ask what is asked, until the connection fails or is too slow."""
        self._connected.set()
        while (question := self._next(connection)) is not None:
            try:
                answer = self._ask(connection, question)
            except Exception as error:
                self._connected.clear()
                question.answer.put(error)
                raise
            finally:
                self._busy.release()
            question.answer.put(answer)

    def _ask(self, connection: Any, question: _Question) -> Any:
        if time.monotonic() > question.deadline:  # asked of a connection that is gone
            return RemotePolicyTimeout("The connection was lost meanwhile")
        connection.send(question.data)
        left = question.deadline + _PATIENCE - time.monotonic()
        return self._actions(unpack(_frame(connection.recv(timeout=left))))

    def _next(self, connection: Any) -> _Question | None:
        """Return what to ask, None to stop; notices meanwhile that the server has gone."""
        while not self._stopping.is_set():
            try:
                return self._questions.get(timeout=0.1)
            except queue.Empty:
                try:
                    connection.recv(timeout=0)
                except TimeoutError:
                    continue
                raise CodecError("Frame that nobody asked for") from None
        return None

    def _actions(self, reply: Any) -> NDArray[np.floating]:
        actions = reply.get("actions") if isinstance(reply, dict) else None
        dim = self._contract.action.dim
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.dtype.kind != "f":
            raise CodecError("Answer of the policy: allowed: 'actions' as floats [H, A]")
        if actions.shape[0] < 1 or actions.shape[1] != dim:
            raise CodecError(f"Actions: got {actions.shape}, allowed: (1 or more, {dim})")
        names = self._contract.action.names
        if self._config.gripper == "same" or GRIPPER not in names:
            return actions
        factor, offset = _GRIPPERS[self._config.gripper]
        ours = actions.copy()
        ours[:, names.index(GRIPPER)] = factor * ours[:, names.index(GRIPPER)] + offset
        return ours


def prompt_of(contract: Contract, text: str) -> dict[str, str]:
    """What is sent of words: a text, or what the contract says; {} where there is neither."""
    said = text or ("" if contract.language is None else contract.language.instruction)
    return {PROMPT: said} if said else {}


def _frame(data: str | bytes) -> bytes:
    """Binary frames carry messages; a text frame is the server's traceback."""
    if isinstance(data, str):
        said = (data.strip().splitlines() or ["without a word"])[-1]
        raise RemotePolicyError(f"The policy's server failed: {said[:200]}")
    return data
