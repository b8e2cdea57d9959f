"""`/api/v1/overrides` and `/api/v1/rate-limits`: leave to exceed a budget, and how fast anybody may go."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from trivet.access import RateLimit
from trivet.admin import OverrideOffice, OverrideOrder, RateOffice
from trivet.api.guard import Caller
from trivet.domain.scopes import parse_scope


class NewOverride(BaseModel):
    """An override that is asked for."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(
        "amount",
        description="`amount`: more for all; `approval`: leave for the dearest tier; `emergency`: more for"
        " critical requests, at once, within a ceiling.",
    )
    scope: str = Field(
        description="Whose limit is in the way; the refusal names it.", examples=["acme.search"]
    )
    meter: str = Field("tokens", description="`tokens`, `weighted_tokens` or `usd_micros`.")
    window: str = Field("daily", description="The kind of limit.")
    amount: StrictInt = Field(0, description="Beyond the limit; not for an approval.")
    reason: str
    expires_at: str | None = Field(None, description="ISO instant; by default 24 hours, an emergency's 1.")


class NewRates(BaseModel):
    """What a scope may do; null: not limited."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: StrictInt | None = None
    tokens_per_minute: StrictInt | None = None
    concurrent: StrictInt | None = Field(None, description="Requests at once.")


ScopeFilter = Annotated[str | None, Query(alias="scope", description="Only this scope and below.")]


def router(overrides: OverrideOffice, rates: RateOffice) -> APIRouter:
    """Return both families of routes."""
    routes = APIRouter()
    routes.include_router(_overrides(overrides))
    routes.include_router(_rates(rates))
    return routes


def _overrides(office: OverrideOffice) -> APIRouter:
    routes = APIRouter(tags=["overrides"])

    @routes.get("/overrides", summary="Overrides of the scopes that you may see, the latest first")
    async def overrides(principal: Caller, scope_text: ScopeFilter = None) -> dict[str, Any]:
        found = await office.list(principal, scope_text)
        return {"overrides": [override.as_json() for override in found]}

    @routes.post("/overrides", summary="Ask for an override", status_code=201)
    async def request(principal: Caller, wanted: NewOverride) -> dict[str, Any]:
        return (await office.request(principal, OverrideOrder(**wanted.model_dump()))).as_json()

    @routes.post("/overrides/{override_id}/approve", summary="Approve a request of somebody else's")
    async def approve(principal: Caller, override_id: str) -> dict[str, Any]:
        return (await office.decide(principal, override_id, approve=True)).as_json()

    @routes.post("/overrides/{override_id}/deny", summary="Deny a request of somebody else's")
    async def deny(principal: Caller, override_id: str) -> dict[str, Any]:
        return (await office.decide(principal, override_id, approve=False)).as_json()

    @routes.delete("/overrides/{override_id}", summary="End an override, or take a request back")
    async def revoke(principal: Caller, override_id: str) -> dict[str, Any]:
        return (await office.revoke(principal, override_id)).as_json()

    return routes


def _rates(office: RateOffice) -> APIRouter:
    routes = APIRouter(tags=["rates"])

    @routes.get("/rate-limits", summary="Rate limits of all scopes that you may see")
    async def limits(principal: Caller) -> dict[str, Any]:
        return {"limits": [limit.as_json() for limit in await office.list(principal)]}

    @routes.get("/rate-limits/{scope}", summary="One scope's own rate limits")
    async def show(principal: Caller, scope: str) -> dict[str, Any]:
        return (await office.show(principal, scope)).as_json()

    @routes.put("/rate-limits/{scope}", summary="Set a scope's rate limits, all of them anew")
    async def put(principal: Caller, scope: str, wanted: NewRates) -> dict[str, Any]:
        limit = RateLimit(scope=parse_scope(scope), **wanted.model_dump())
        return (await office.set(principal, limit)).as_json()

    @routes.delete("/rate-limits/{scope}", summary="Remove a scope's rate limits", status_code=204)
    async def clear(principal: Caller, scope: str) -> Response:
        await office.clear(principal, scope)
        return Response(status_code=204)

    return routes
