"""Our policies for openpi's clients: their websocket protocol, without what makes theirs unsafe.

On connect the client gets one frame of metadata; then each observation it sends is answered with
actions. Inference runs in a thread of its own, so that the event loop always answers, and what
several clients ask at the same time is one batch where the policy has `act_batch`. `/healthz`
says OK. Loopback without a token, a bearer token beyond; no browser is served.
"""

import asyncio
import concurrent.futures
import contextlib
import hmac
import logging
import re
import ssl
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path, PurePath
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from robot_bridge.network.codec import CodecError
from robot_bridge.network.endpoints import UnsafeBindError, is_loopback
from robot_bridge.openpi.requests import Requests, metadata
from robot_bridge.openpi.wire import MAX_BYTES, pack, unpack
from robot_bridge.policy.observation import Obs
from robot_bridge.policy.policy import Policy
from scenes.contract.errors import InputError
from scenes.contract.extras import require
from scenes.contract.policy_contract import Contract

_LOG = logging.getLogger(__name__)
_INTERNAL_ERROR = 1011  # RFC 6455, 7.4.1
_TRY_AGAIN = 1013  # IANA's registry of close codes
_PATH = re.compile(r"(?<![\w.~-])(?:/[\w.+@~-]+)+/([\w.+@~-]+)")


@runtime_checkable
class BatchPolicy(Protocol):
    """A policy that is quicker for several observations at once."""

    def act_batch(self, obs: Sequence[Obs]) -> Sequence[NDArray[np.floating]]:
        """Return actions [H, A] for each observation."""
        ...


@runtime_checkable
class SteeredPolicy(Protocol):
    """A policy that carries noise to actions, as flows do.

    Where a client has chosen the noise (DSRL does), it is in the observation as `NOISE_INPUT`;
    where not, the policy does what it does of its own.
    """

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Of the noise [H, A], standard normal in training."""
        ...


@dataclass(frozen=True, kw_only=True)
class PolicyServerConfig:
    """Where and for whom.

    Attributes:
        host: to listen on.
        port: 0 takes a free one.
        token: what clients send as `Authorization: Api-Key TOKEN`, required beyond loopback.
        tls: certificate; without one the token travels in the clear, so put it behind a proxy
            that has one.
        max_clients: connections at a time.
        max_per_peer: of them from one address, so that one machine cannot keep all others out.
        idle_after: a client that has asked nothing for so long makes room for one that comes when
            there is none left [s].
        max_batch: observations.
        batch_window: for how long a batch is collected once its first observation has come [s].
        renamed: our names by the client's, for example {"observation/image": "front"}.
        tokenizer_model: file of the policy's tokenizer, where that has one.
        horizon: actions of an answer, which clients are told; None tells them nothing.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    max_clients: int = 16
    max_per_peer: int = 8
    idle_after: float = 1.0
    max_batch: int = 16
    batch_window: float = 0.002
    renamed: Mapping[str, str] = field(default_factory=dict)
    tokenizer_model: Path | None = None
    horizon: int | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    obs: Obs
    answer: asyncio.Future[tuple[NDArray[np.floating], float]]


@dataclass(slots=True)
class _Client:
    """Where a connection comes from, and when it last asked [s]."""

    host: str
    asked: float


class PolicyServer:
    """Serves one policy; all clients share it, so it must not carry state between calls.

    Args:
        policy: reset once, before the first observation.
        contract: what it was trained for; observations are checked against it.

    Raises UnsafeBindError for a host beyond loopback without a token, OSError where it cannot
    listen.
    """

    def __init__(
        self, policy: Policy, contract: Contract, config: PolicyServerConfig | None = None
    ) -> None:
        self._config = config or PolicyServerConfig()
        if not is_loopback(self._config.host) and not self._config.token:
            raise UnsafeBindError(
                f"Host '{self._config.host}' can be reached from other machines and there is no "
                "token; allowed without one: 127.0.0.1"
            )
        if contract.stack > 1:
            raise InputError(
                f"This policy observes {contract.stack} pictures of a camera at once, and clients "
                "send one; allowed: a policy of pixels.stack 1"
            )
        self._websockets = require("websockets", "bridge")
        self._serving = require("websockets.asyncio.server", "bridge")
        self._policy, self._contract = policy, contract
        noise = policy.noise_shape if isinstance(policy, SteeredPolicy) else None
        self._requests = Requests(
            contract,
            renamed=self._config.renamed,
            tokenizer_model=self._config.tokenizer_model,
            noise=noise,
        )
        told = metadata(contract, horizon=self._config.horizon, noise=noise)
        self._metadata = pack(told)
        self._clients: dict[Any, _Client] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.batches: dict[int, int] = {}
        self.rejected = 0
        self.port = 0
        policy.reset()
        self._start()

    def close(self) -> None:
        """Close all connections and stop."""
        with contextlib.suppress(RuntimeError):  # closed before
            self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()

    def __enter__(self) -> "PolicyServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- its thread ------------------------------------------------------------------------------

    def _start(self) -> None:
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(started)), name="policy server", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except OSError as error:
            where = f"{self._config.host}:{self._config.port}"
            raise OSError(f"Cannot listen at {where}: {error}") from None

    async def _main(self, started: concurrent.futures.Future[None]) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()
        config = self._config
        try:
            server = await self._serving.serve(
                self._serve, config.host, config.port, ssl=config.tls, compression=None,
                max_size=MAX_BYTES, max_queue=2, origins=[None], process_request=self._admit,
                server_header=None, close_timeout=1.0, open_timeout=3.0,
            )  # fmt: skip
        except OSError as error:
            started.set_exception(error)
            return
        self.port = server.sockets[0].getsockname()[1]
        worker = asyncio.create_task(self._infer())
        started.set_result(None)
        await self._done.wait()
        worker.cancel()
        server.close()
        with contextlib.suppress(TimeoutError):  # clients of a policy that hangs are cancelled
            await asyncio.wait_for(server.wait_closed(), 2.0)

    def _admit(self, connection: Any, request: Any) -> Any:
        """Answer plain HTTP, and turn away whoever lacks the token."""
        sent, wanted = request.headers.get("Authorization", ""), f"Api-Key {self._config.token}"
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if self._config.token and not hmac.compare_digest(sent.encode(), wanted.encode()):
            self.rejected += 1
            return connection.respond(HTTPStatus.UNAUTHORIZED, "Api-Key is missing or wrong\n")
        address = connection.remote_address
        host = str(address[0]) if address else ""
        if not (
            self._room(self._config.max_per_peer, host) and self._room(self._config.max_clients)
        ):
            self.rejected += 1
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        self._clients[connection] = _Client(host, time.monotonic())
        return None

    def _room(self, most: int, host: str | None = None) -> bool:
        """Whether there is room for one more, of an address or in all; the idlest makes some."""
        gone = (self._websockets.State.CLOSING, self._websockets.State.CLOSED)
        self._clients = {c: x for c, x in self._clients.items() if c.state not in gone}
        rivals = [c for c, x in self._clients.items() if host is None or x.host == host]
        if len(rivals) < most:
            return True
        idlest = min(rivals, key=lambda c: self._clients[c].asked)
        if time.monotonic() - self._clients[idlest].asked < self._config.idle_after:
            return False
        del self._clients[idlest]
        closing = self._loop.create_task(idlest.close(_TRY_AGAIN, "idle, and others wait"))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return True

    async def _serve(self, connection: Any) -> None:
        """Talk to one client until it leaves or errs."""
        try:
            await connection.send(self._metadata)
            total: float | None = None
            while True:
                data = await connection.recv()
                began = time.monotonic()
                if connection in self._clients:
                    self._clients[connection].asked = began
                await connection.send(await self._reply(data, total))
                total = (time.monotonic() - began) * 1e3
        except self._websockets.ConnectionClosed:
            return
        except Exception as error:
            self.rejected += isinstance(error, CodecError)
            _LOG.warning("A client was turned away: %s", type(error).__name__)
            with contextlib.suppress(self._websockets.ConnectionClosed):
                await connection.send(safe_traceback(error))
            await connection.close(_INTERNAL_ERROR, "Internal server error, see the last frame")
        finally:
            self._clients.pop(connection, None)

    async def _reply(self, data: str | bytes, total: float | None) -> bytes:
        if isinstance(data, str):
            raise CodecError("Frame: got text, allowed: msgpack")
        obs = self._requests.read(unpack(data))
        answer: asyncio.Future[Any] = self._loop.create_future()
        await self._queue.put(_Request(obs, answer))
        actions, seconds = await answer
        took = {"infer_ms": seconds * 1e3}
        timing = took if total is None else took | {"prev_total_ms": total}
        return pack(
            {"actions": np.asarray(actions), "policy_timing": took, "server_timing": timing}
        )

    # -- inference -------------------------------------------------------------------------------

    async def _infer(self) -> None:
        """Collect requests and have the policy answer them, one batch at a time."""
        while True:
            batch = [await self._queue.get()]
            if isinstance(self._policy, BatchPolicy):
                await asyncio.sleep(self._config.batch_window)
                while not self._queue.empty() and len(batch) < self._config.max_batch:
                    batch.append(self._queue.get_nowait())
            try:
                actions, seconds = await self._in_thread([request.obs for request in batch])
            except Exception as error:
                self._settle(batch, error=error)
                continue
            self.batches[len(batch)] = self.batches.get(len(batch), 0) + 1
            self._settle(batch, answers=[(a, seconds) for a in actions])

    def _settle(
        self, batch: Sequence[_Request], *, answers: Sequence[Any] = (), error: Any = None
    ) -> None:
        """Answer those that still wait: a client may have gone in the meantime."""
        for index, request in enumerate(batch):
            if request.answer.done():
                continue
            if error is not None:
                request.answer.set_exception(error)
            else:
                request.answer.set_result(answers[index])

    async def _in_thread(self, batch: list[Obs]) -> tuple[Sequence[NDArray[np.floating]], float]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        # Not an executor: a policy that hangs would keep the process from ending.
        threading.Thread(target=self._act, args=(batch, future), daemon=True).start()
        return await asyncio.wrap_future(future)

    def _act(self, batch: list[Obs], future: concurrent.futures.Future[Any]) -> None:
        began = time.monotonic()
        if not future.set_running_or_notify_cancel():
            return
        try:
            if isinstance(self._policy, BatchPolicy):
                actions = list(self._policy.act_batch(batch))
                if len(actions) != len(batch):
                    raise InputError(f"act_batch: got {len(actions)} answers to {len(batch)}")
            else:
                actions = [self._policy.act(batch[0])]
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result((actions, time.monotonic() - began))


def safe_traceback(error: BaseException) -> str:
    """What went wrong and where, with names of files but no folders."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"  {PurePath(f.filename).name}:{f.lineno} in {f.name}" for f in frames]
    said = _PATH.sub(r"\1", f"{type(error).__name__}: {error}")
    return "\n".join(["Traceback (most recent call last):", *where, said[:2000]])
