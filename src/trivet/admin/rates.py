"""Rate limits: who may set them for whom."""

import asyncio
from dataclasses import fields

from trivet.access import RateLimit, RateLimits, require_above, require_scope
from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import contains, parse_scope

LARGEST_RATE = 10**12


class RateOffice:
    """Rate limits, behind permission checks: what bounds a scope is set from above."""

    def __init__(self, rates: RateLimits) -> None:
        self._rates = rates

    async def list(self, caller: Principal) -> list[RateLimit]:
        """Return the limits of all scopes that the caller may see."""
        return [
            limit for limit in self._rates.limits() if caller.sees_all or contains(caller.scope, limit.scope)
        ]

    async def show(self, caller: Principal, scope_text: str) -> RateLimit:
        """Return a scope's own limits; all None where it has none."""
        scope = parse_scope(scope_text)
        require_scope(caller, scope)
        found = {limit.scope: limit for limit in self._rates.limits()}
        return found.get(scope, RateLimit(scope=scope))

    async def set(self, caller: Principal, limit: RateLimit) -> RateLimit:
        """Set a scope's limits, all of them anew.

        Raises:
            RequestMalformed: a rate is no whole number, or all are None.
            NotFound, PermissionDenied: the scope is not the caller's to bound.
        """
        scope = parse_scope(limit.scope)
        require_above(caller, scope)
        rates = {field.name: getattr(limit, field.name) for field in fields(limit) if field.name != "scope"}
        if all(rate is None for rate in rates.values()):
            raise RequestMalformed("No rate was given.", hint='Send for example {"requests_per_minute": 60}.')
        for name, rate in rates.items():
            if rate is not None and not 0 <= rate <= LARGEST_RATE:
                raise RequestMalformed(
                    f"{name}: a rate is a whole number from 0 to {LARGEST_RATE:,}, or null for none.",
                    param=name,
                )
        await asyncio.to_thread(lambda: self._rates.set_limit(limit, author=caller.key_id))
        return limit

    async def clear(self, caller: Principal, scope_text: str) -> None:
        """Remove a scope's own limits."""
        scope = parse_scope(scope_text)
        require_above(caller, scope)
        await asyncio.to_thread(self._rates.clear, scope)
