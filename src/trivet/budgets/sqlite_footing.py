"""What a request stands on: its rows' counters beside what bounds them, for a quick yes.

Almost every hold fits in whole, and almost every charge passes no threshold. That much is decided here in
one walk over integers. Whatever else it may be, `admission`, `ladder` and `Books.announce` decide it, as on
every store.
"""

from collections.abc import Sequence

from trivet.budgets.rows import Cap
from trivet.budgets.sqlite_standing import Counter
from trivet.domain.budgets import METERS, WINDOW_KINDS, Amounts, Hold, Reservation

_NEVER = 2**63
_TOKENS = METERS.index("tokens")
_DOLLARS = METERS.index("usd_micros")

_Bar = tuple[Counter, int, int, int, int, Cap]
"""A counter, what it may grow to, its meter, and the hundredfold use from which the ladder may refuse and
from which thresholds are announced; and its cap."""


class Footing:
    """The counters of a request, and those of them that are limited."""

    __slots__ = ("_bars", "_complete", "_requests", "caps", "counters", "dollars")

    def __init__(
        self,
        counters: tuple[Counter, ...],
        caps: tuple[Cap, ...],
        limited: Sequence[Counter],
        *,
        critical: bool,
        refuses_from: int,
        announces_from: int,
    ) -> None:
        """Bind counters and caps.

        Args:
            counters: of all rows of the request.
            caps: what bounds some of them, and single requests.
            limited: the counters of `caps`, one for each.
            critical: whether the request may use what is kept for critical ones.
            refuses_from: the percentage of use from which the ladder may refuse.
            announces_from: the percentage of use that is announced first.
        """
        self.counters = counters
        self._complete = False
        self.caps = caps
        bars: list[_Bar] = []
        requests: list[tuple[int, int]] = []
        for cap, counter in zip(caps, limited, strict=True):
            ceiling = cap.ceiling(critical=critical)
            if cap.key.window == "request":
                requests.append((ceiling, counter.meter))
            elif cap.key.window in WINDOW_KINDS:
                refused, announced = refuses_from * ceiling, announces_from * cap.limit
                bars.append((counter, ceiling, counter.meter, refused, announced, cap))
            else:
                bars.append((counter, ceiling, counter.meter, _NEVER, _NEVER, cap))
        self._bars = tuple(bars)
        self._requests = tuple(requests)
        self.dollars = any(counter.meter == _DOLLARS for counter in limited)

    @property
    def complete(self) -> bool:
        """Tell whether all counters are in the table, from which none ever goes."""
        if not self._complete:
            self._complete = all(counter.stored for counter in self.counters)
        return self._complete

    def admitted(self, hold: Hold, reservation_id: str, amounts: Amounts) -> Reservation | None:
        """Return the reservation, if all of it fits and no policy can speak; None: look closer."""
        asked = amounts.tokens, amounts.weighted_tokens, amounts.usd_micros
        for ceiling, meter in self._requests:
            if asked[meter] > ceiling:
                return None
        room = _NEVER
        for counter, ceiling, meter, refused, _, _ in self._bars:
            used = counter.used
            left = ceiling - used - counter.held - asked[meter]
            if left < 0 or used * 100 >= refused:
                return None
            if meter == _TOKENS and left < room:
                room = left
        return Reservation(
            reservation_id,
            hold.scope,
            amounts.tokens,
            None if room == _NEVER else room,
            amounts,
            hold.max_output,
            False,
            hold.expires_at_ns,
            self.dollars,
        )

    def standing(self) -> tuple[int | None, list[Cap]]:
        """Return the least tokens that any row has left, and the caps of which a threshold is passed."""
        room = _NEVER
        passed: list[Cap] = []
        for counter, ceiling, meter, _, announced, cap in self._bars:
            used = counter.used
            if used * 100 >= announced:
                passed.append(cap)
            if meter == _TOKENS:
                left = ceiling - used - counter.held
                if left < room:
                    room = left
        return (None if room == _NEVER else max(0, room)), passed
