"""How far another machine's clock is from ours, from messages that are exchanged anyway."""

import collections
import math


class ClockOffset:
    """The other's clock minus ours [s], from the quickest of the last round trips.

    As NTP does (RFC 5905, section 8); what the other took to answer is no part of a round trip.
    """

    def __init__(self) -> None:
        self._trips: collections.deque[tuple[float, float]] = collections.deque(maxlen=16)

    def note(self, sent: float, came: float, left: float, received: float) -> None:
        """Add a round trip [s]: sent and received here, in between came and left there."""
        trip = (received - sent) - (left - came)
        if 0 <= trip < math.inf and left >= came:
            self._trips.append((trip, (came - sent + left - received) / 2))

    @property
    def seconds(self) -> float:
        """The estimate; exactly 0 where that is within its error, half the round trip."""
        if not self._trips:
            return 0.0
        trip, offset = min(self._trips)
        return 0.0 if abs(offset) <= trip / 2 else offset

    @property
    def round_trip(self) -> float:
        """The quickest of the last [s], infinite before the first."""
        return min(self._trips)[0] if self._trips else math.inf
