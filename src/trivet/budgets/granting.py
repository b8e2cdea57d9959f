"""What every store decides and says of a hold in the same words. Pure."""

from collections.abc import Iterable

from trivet.budgets.admission import grant
from trivet.budgets.entries import quoted
from trivet.budgets.ladder import Ladder
from trivet.budgets.refusals import price_unknown
from trivet.budgets.rows import Balance, Cap, Stored, least_room
from trivet.domain.budgets import Amounts, Hold, Reservation
from trivet.domain.errors import (
    BudgetError,
    BudgetExhausted,
    RequestMalformed,
    RequestTooLarge,
    StoreError,
)


def granted_output(
    balances: list[Balance], hold: Hold, ladder: Ladder, now_ns: int, *, approved: bool, final: bool
) -> int:
    """Return the output tokens to grant.

    Where both speak, capacity that is lacking until a reset is told before policy, and policy before
    open holds: waiting for those would not help.

    Raises:
        BudgetError: nothing may be held; see `admission` and `ladder`.
    """
    granted = grant(balances, hold, now_ns, final=final)
    policy = ladder.refusal(balances, hold, approved=approved, now_ns=now_ns)
    if policy is not None and not isinstance(granted, BudgetExhausted | RequestTooLarge):
        raise policy
    if isinstance(granted, BudgetError):
        raise granted
    return granted


def check_priced(hold: Hold, caps: Iterable[Cap]) -> None:
    """Refuse a hold on a model of unknown price where a limit in dollars would have to be kept.

    Raises:
        PriceUnknown: see above.
    """
    if hold.unpriced:
        for cap in caps:
            if cap.key.meter == "usd_micros":
                raise price_unknown(cap, hold)


def check_reweight(
    balances: list[Balance], asked: Hold, more: Amounts, ladder: Ladder, now_ns: int, *, approved: bool
) -> None:
    """Refuse to weigh a hold anew where its growth does not fit, or the tier takes an approval.

    Raises:
        BudgetError: see above.
    """
    policy = ladder.refusal(balances, asked, approved=approved, now_ns=now_ns) if asked.dearest else None
    if policy is not None:
        raise policy
    growing = [balance for balance in balances if more.of(balance.key.meter) > 0]
    refused = grant(growing, asked, now_ns, final=True)
    if isinstance(refused, BudgetError):
        raise refused


def own_requests(requests: Iterable[Cap], held: Amounts, *, critical: bool) -> list[Balance]:
    """Return the caps on a single request as rows in which stands what that request holds already."""
    return [
        Balance(cap.key, 0, held.of(cap.key.meter), cap.limit, cap.ceiling(critical=critical) - cap.limit)
        for cap in requests
    ]


def check_same(stored: Stored, hold: Hold) -> None:
    """Refuse an id that stands for another hold, or for one that has ended.

    Raises:
        RequestMalformed: see above.
    """
    same = (
        stored.scope == hold.scope
        and stored.state == "held"
        and stored.max_output <= hold.max_output
        and stored.held == hold.amounts(stored.max_output)
    )
    if not same:
        raise RequestMalformed(
            f"The reservation {stored.reservation_id} of {stored.held.tokens} tokens for {stored.scope}"
            f" exists already and is {stored.state}.",
            hint="Use a new id for every request.",
            param="reservation_id",
        )


def missing_counters(reservation_id: str) -> StoreError:
    """Return the error of a reservation whose counters are gone."""
    return StoreError(
        f"The counters of the reservation {reservation_id} are missing.",
        hint="Run `trivet ledger verify` and restore the store from a backup.",
    )


def hold_detail(hold: Hold, output: int) -> str:
    """Return what the entry of a hold says of it, beside its amounts."""
    # What `as_detail` would make of it, at a third of the price: this is done for every request.
    facts = f',"max_output":{output:d}' if hold.max_output else ""
    if output < hold.max_output:
        facts = f',"asked_output":{hold.max_output:d}{facts}'
    if hold.priority != "interactive":
        facts += f',"priority":{quoted(hold.priority)}'
    if hold.tier is not None:
        facts += f',"tier":{quoted(hold.tier)}'
    return f"{{{facts[1:]}}}"


def reservation_of(
    hold: Hold,
    reservation_id: str,
    balances: list[Balance],
    amounts: Amounts,
    output: int,
    *,
    more: Amounts | None = None,
) -> Reservation:
    """Return the hold as its asker learns of it; `balances` are from before `more` was added."""
    added = amounts if more is None else more
    room = least_room(balance for balance in balances if balance.key.window != "request")
    return Reservation(
        reservation_id=reservation_id,
        scope=hold.scope,
        amount=amounts.tokens,
        remaining=None if room is None else room - added.tokens,
        amounts=amounts,
        max_output=output,
        clamped=output < hold.max_output,
        expires_at_ns=hold.expires_at_ns,
        dollars_limited=any(balance.key.meter == "usd_micros" for balance in balances),
    )
