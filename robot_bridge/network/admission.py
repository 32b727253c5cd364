"""Which messages are taken: rates, sessions, replays, roles, leases. No sockets here.

Times are the server's monotonic clock [s]. What is not taken raises a Refused with the kind under
which it is counted.
"""

import collections
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from robot_bridge.messages import Source
from robot_bridge.network.codec import Role, Stamp

REJECTIONS: tuple[str, ...] = (
    "flooded",  # more messages than the rate allows
    "oversized",  # longer than a request may be
    "malformed",  # not a message of ours, or not one for us
    "full",  # too many peers
    "unknown_session",  # its nonce is not the one this peer was given
    "replayed",  # a sequence number was seen before
    "late",  # sent too long ago, or in the future
    "role",  # the key may not do that
    "lease",  # somebody else commands, or nobody was granted to
    "handshake",  # no CURVE, a wrong server key, not ZeroMQ at all
    "denied_key",  # a key that is not on the list
    "internal",  # our own side raised while it took a message
)
# What each source of commands needs: a person's takeover outranks the policy.
ROLE_FOR: dict[Source, Role] = {"policy": "command", "operator": "admin"}
_RANK: dict[Role, int] = {"observe": 0, "command": 1, "admin": 2}


class Refused(Exception):  # noqa: N818 (an answer, not a failure)
    """A message was not taken. kind: of REJECTIONS."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class AdmissionConfig:
    """Limits of reference robot_bridge.md section 4.

    Attributes:
        rate: messages per second and peer [1/s].
        burst: messages at once.
        window: largest age of a message [s].
        lease: how long a grant to command lasts without a Beat [s].
        max_request: [bytes].
        max_peers: sessions at a time.
        idle: time without a message after which a session may be given away [s]; eight Beats.
    """

    rate: float = 200.0
    burst: int = 50
    window: float = 0.25
    lease: float = 1.0
    max_request: int = 256 * 1024
    max_peers: int = 64
    idle: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Guest:
    """Who may command as a source besides the process that owns the arm.

    Attributes:
        name: of its key, or what it calls itself where the door lets in nobody but our user.
        ticket: a secret that its Hello must bring, for one that was started by us; else empty.
    """

    name: str
    ticket: str = field(default="", repr=False)

    def is_peer(self, peer: "Peer") -> bool:
        """Whether this is the one."""
        same = hmac.compare_digest(self.ticket.encode(), peer.ticket.encode())
        return peer.name == self.name and same


@dataclass(slots=True)
class Peer:
    """A session.

    Attributes:
        address: of its connection.
        name: for people.
        role: what it may do.
        session: its nonce.
        seen: when it last spoke [s].
        ticket: that it has shown.
        last: sequence number of its last message.
    """

    address: bytes
    name: str
    role: Role
    session: bytes
    seen: float
    ticket: str = field(default="", repr=False)
    last: int = -1


class Throttle:
    """A token bucket per peer; forgets those that have been silent the longest."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._rate, self._burst = config.rate, float(config.burst)
        self._most = 4 * config.max_peers
        self._levels: collections.OrderedDict[bytes, tuple[float, float]] = (
            collections.OrderedDict()
        )

    def admit(self, who: bytes, now: float) -> None:
        """Take a token, or Refused."""
        level, since = self._levels.pop(who, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._rate)
        self._levels[who] = (level - 1.0 if level >= 1.0 else level, now)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        if level < 1.0:
            raise Refused("flooded", f"over {self._rate:g} messages per second")


class Sessions:
    """Who has said hello; checks that each message is new and of now."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._config = config
        self._peers: dict[bytes, Peer] = {}

    def open(self, address: bytes, name: str, role: Role, now: float, *, ticket: str = "") -> Peer:
        """Begin a session, in place of the peer's last one; Refused where there are too many."""
        if address not in self._peers and len(self._peers) >= self._config.max_peers:
            self._evict(now)
        peer = Peer(address, name, role, secrets.token_bytes(16), now, ticket)
        self._peers[address] = peer
        return peer

    def admit(self, address: bytes, stamp: Stamp, now: float) -> Peer:
        """Return the peer whose message this is, or Refused."""
        peer = self._peers.get(address)
        if peer is None or not hmac.compare_digest(peer.session, stamp.session):
            raise Refused("unknown_session", "say hello first")
        if stamp.seq <= peer.last:
            raise Refused("replayed", f"sequence number {stamp.seq} after {peer.last}")
        # Written so that a NaN is refused.
        if not abs(now - stamp.t) <= self._config.window:
            raise Refused("late", f"{now - stamp.t:.3f} s old, at most {self._config.window} s")
        peer.last, peer.seen = stamp.seq, now
        return peer

    def _evict(self, now: float) -> None:
        oldest = min(self._peers.values(), key=lambda peer: peer.seen)
        if now - oldest.seen < self._config.idle:
            raise Refused("full", f"{len(self._peers)} peers are connected, no more are allowed")
        del self._peers[oldest.address]


@dataclass(frozen=True, slots=True)
class _Lease:
    peer: Peer
    until: float


class Leases:
    """At most one peer commands as each source, for as long as it keeps asking.

    guests: who may, by source. Nobody may command as any other source: that one belongs to the
    process that owns the arm.
    """

    def __init__(self, config: AdmissionConfig, guests: Mapping[Source, Guest]) -> None:
        self._seconds, self._guests = config.lease, dict(guests)
        self._held: dict[Source, _Lease] = {}
        self._kept: dict[Source, Peer] = {}

    def take(self, peer: Peer, source: Source, now: float) -> None:
        """Grant or renew, or Refused, saying why."""
        self._require_guest(peer, source)
        lease = self._live(source, now)
        if lease is not None and lease.peer is not peer:
            left = lease.until - now
            raise Refused("lease", f"held by {lease.peer.name} for {left:.2f} s more")
        self._held[source] = _Lease(peer, now + self._seconds)

    def release(self, peer: Peer, source: Source) -> None:
        """Give a lease back; nothing where it is not the peer's."""
        lease = self._held.get(source)
        if lease is not None and lease.peer is peer:
            del self._held[source]

    def require(self, peer: Peer, source: Source, now: float) -> None:
        """Refused unless the peer commands as `source` now."""
        self._require_guest(peer, source)
        lease = self._live(source, now)
        if lease is None or lease.peer is not peer:
            holder = "nobody" if lease is None else lease.peer.name
            raise Refused("lease", f"commands as {source} need the lease, held by {holder}")

    def keep(self, source: Source, now: float) -> bool:
        """From now on nobody takes the holder's place, even after it has gone; False without one.

        It is the one that a person has consented to; any thread may call.
        """
        lease = self._live(source, now)
        if lease is not None:
            self._kept.setdefault(source, lease.peer)
        return lease is not None

    def holders(self, now: float) -> dict[str, str]:
        """Names by source."""
        live = {source: self._live(source, now) for source in self._held}
        return {source: lease.peer.name for source, lease in live.items() if lease is not None}

    def _require_guest(self, peer: Peer, source: Source) -> None:
        require_role(peer, ROLE_FOR[source])
        guest = self._guests.get(source)
        if guest is None:
            raise Refused(
                "lease", f"commands as {source} are the bridge's own; deploy.py --{source}-source"
            )
        if not guest.is_peer(peer):
            raise Refused("lease", f"commands as {source} are {guest.name}'s, not {peer.name}'s")
        if self._kept.get(source, peer) is not peer:
            raise Refused("lease", f"the {source} that a person consented to was another process")

    def _live(self, source: Source, now: float) -> _Lease | None:
        lease = self._held.get(source)
        return None if lease is None or now >= lease.until else lease


def require_role(peer: Peer, role: Role) -> None:
    """Refused unless the peer's role is at least `role`."""
    if _RANK[peer.role] < _RANK[role]:
        raise Refused("role", f"{peer.name} may {peer.role}; this needs {role}")
