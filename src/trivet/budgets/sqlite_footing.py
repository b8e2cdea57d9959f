"""What a request stands on: its rows' counters beside what bounds them, for a quick yes.

Almost every hold fits in whole, and almost every charge passes no threshold. That much is decided here in
one walk over integers. Whatever else it may be, `admission`, `ladder` and `Books.announce` decide it, as on
every store.
"""

from collections.abc import Sequence

from trivet.budgets.rows import Cap
from trivet.budgets.sqlite_standing import Counter, CounterSet
from trivet.domain.budgets import METERS, WINDOW_KINDS, Amounts, Hold, Reservation

_NEVER = 2**63
_TOKENS = METERS.index("tokens")
_DOLLARS = METERS.index("usd_micros")

_Bar = tuple[Counter, int, int, int, int, Cap]
"""A counter, what it may grow to, its meter, the use from which the ladder may refuse and that from which
thresholds are announced; and its cap."""


class Footing:
    """The counters of a request, and those of them that are limited."""

    __slots__ = ("_others", "_requests", "_tokens", "caps", "counters", "dollars")

    def __init__(
        self,
        counters: CounterSet,
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
        self.caps = caps
        bars: list[_Bar] = []
        requests: list[tuple[int, int]] = []
        for cap, counter in zip(caps, limited, strict=True):
            ceiling = cap.ceiling(critical=critical)
            if cap.key.window == "request":
                requests.append((ceiling, counter.meter))
            elif cap.key.window in WINDOW_KINDS:
                refused = _share(refuses_from, ceiling)
                announced = _share(announces_from, cap.limit)
                bars.append((counter, ceiling, counter.meter, refused, announced, cap))
            else:
                bars.append((counter, ceiling, counter.meter, _NEVER, _NEVER, cap))
        self._tokens = tuple(bar for bar in bars if bar[0].meter == _TOKENS)
        self._others = tuple(bar for bar in bars if bar[0].meter != _TOKENS)
        self._requests = tuple(requests)
        self.dollars = any(counter.meter == _DOLLARS for counter in limited)

    def admitted(self, hold: Hold, reservation_id: str, amounts: Amounts) -> Reservation | None:
        """Return the reservation, if all of it fits and no policy can speak; None: look closer."""
        room = _NEVER
        for counter, ceiling, _, refused, _, _ in self._tokens:
            used = counter.used
            left = ceiling - used - counter.held
            if left < room:
                room = left
            if used >= refused:
                return None
        room -= amounts.tokens
        if room < 0 or not self._others_admit(amounts):
            return None
        return Reservation(
            reservation_id,
            hold.scope,
            amounts.tokens,
            room if self._tokens else None,
            amounts,
            hold.max_output,
            False,
            hold.expires_at_ns,
            self.dollars,
        )

    def _others_admit(self, amounts: Amounts) -> bool:
        """Tell whether the rows of the other meters, and the caps on single requests, admit all of it."""
        if not self._others and not self._requests:
            return True
        asked = amounts.tokens, amounts.weighted_tokens, amounts.usd_micros
        return all(asked[meter] <= ceiling for ceiling, meter in self._requests) and all(
            counter.used + counter.held + asked[meter] <= ceiling and counter.used < refused
            for counter, ceiling, meter, refused, _, _ in self._others
        )

    def standing(self) -> tuple[int | None, list[Cap]]:
        """Return the least tokens that any row has left, and the caps of which a threshold is passed."""
        room = _NEVER
        passed: list[Cap] = []
        for counter, ceiling, _, _, announced, cap in self._tokens:
            used = counter.used
            left = ceiling - used - counter.held
            if left < room:
                room = left
            if used >= announced:
                passed.append(cap)
        for counter, _, _, _, announced, cap in self._others:
            if counter.used >= announced:
                passed.append(cap)
        if self._others:
            passed.sort(key=self.caps.index)
        return (max(0, room) if self._tokens else None), passed


def _share(percent: int, whole: int) -> int:
    """Return the least use that is so many percent of the whole."""
    return -(-percent * whole // 100)
