"""`/api/v1`: budgets, reports, engines, the ledger's proof; with the routes of keys, overrides and rates."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from trivet.admin import Office, Offices
from trivet.api import cache_routes, key_routes, leave_routes, watch_routes
from trivet.api.guard import Caller
from trivet.api.limit_values import Limits, told


class NewTimeZone(BaseModel):
    """Where an organisation's calendar is."""

    model_config = ConfigDict(extra="forbid")

    time_zone: str = Field(description="IANA name.", examples=["Europe/Berlin"])


Since = Annotated[str | None, Query(description="Span before now (24h, 7d) or ISO instant; default 30 days.")]
Until = Annotated[str | None, Query(description="Span before now or ISO instant; default now.")]
ScopeFilter = Annotated[
    str | None, Query(alias="scope", description="Only this scope and what lies below it.")
]


def router(offices: Offices) -> APIRouter:
    """Return the administrative routes; the guard has put the caller into the request's scope."""
    routes = APIRouter(prefix="/api/v1")
    for part in (_budgets(offices.books), _reports(offices.books), key_routes.router(offices.keys)):
        routes.include_router(part)
    routes.include_router(leave_routes.router(offices.overrides, offices.rates))
    routes.include_router(cache_routes.router(offices.caches))
    routes.include_router(watch_routes.router(offices.alerts, offices.audits))
    return routes


def _budgets(office: Office) -> APIRouter:
    routes = APIRouter(tags=["budgets"])

    @routes.get("/budgets", summary="Current counters of all scopes you may see")
    async def budgets(principal: Caller) -> Response:
        # Of thousands of scopes this is most of a megabyte, which the framework would look through first.
        rows = await office.budget_rows(principal)
        return Response(to_json({"rows": rows}), media_type="application/json")

    @routes.get("/budgets/{scope}/status", summary="One scope's budgets, burn rate, projection")
    async def budget_status(principal: Caller, scope: str) -> dict[str, Any]:
        return (await office.budget_status(principal, scope)).as_json()

    @routes.get("/budgets/{scope}", summary="A scope's own limits, as they were set")
    async def limits_of(principal: Caller, scope: str) -> dict[str, Any]:
        return await office.limits(principal, scope)

    @routes.put("/budgets/{scope}", summary='Set limits: {"daily": 100000, "usd_micros.monthly": null}')
    async def set_budget(principal: Caller, scope: str, limits: Limits) -> dict[str, Any]:
        return (await office.set_budget(principal, scope, told(limits))).as_json()

    @routes.put("/budgets/{scope}/time-zone", summary="Set where an organisation's days begin")
    async def set_time_zone(principal: Caller, scope: str, wanted: NewTimeZone) -> dict[str, Any]:
        return await office.set_time_zone(principal, scope, wanted.time_zone)

    @routes.delete("/budgets/{scope}", summary="Remove a scope's own limits", status_code=204)
    async def clear_budget(principal: Caller, scope: str) -> Response:
        await office.clear_budget(principal, scope)
        return Response(status_code=204)

    return routes


def _reports(office: Office) -> APIRouter:
    routes = APIRouter(tags=["reports"])

    @routes.get("/savings", summary="Device seconds used, against everything on the heaviest tier")
    async def savings(
        principal: Caller, since: Since = None, until: Until = None, scope_text: ScopeFilter = None
    ) -> dict[str, Any]:
        return await office.savings(principal, since=since, until=until, scope_text=scope_text)

    @routes.get("/usage", summary="Requests, tokens and device seconds, grouped")
    async def usage(
        principal: Caller,
        since: Since = None,
        until: Until = None,
        scope_text: ScopeFilter = None,
        by: Annotated[
            str, Query(description="Comma separated: tier, model, scope, task_type, day, ...")
        ] = "tier",
    ) -> dict[str, Any]:
        groups = [part.strip() for part in by.split(",") if part.strip()]
        rows = await office.usage(principal, since=since, until=until, group_by=groups, scope_text=scope_text)
        return {"group_by": groups, "rows": rows}

    @routes.get("/deployments", summary="The engines and their states")
    async def deployments(principal: Caller) -> dict[str, Any]:
        return {"deployments": await office.deployments(principal)}

    @routes.get("/ledger/history", summary="Entries of a scope and all below it, the latest first")
    async def history(
        principal: Caller,
        scope_text: Annotated[str, Query(alias="scope", description="Whose entries.")],
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        before: Annotated[int | None, Query(description="Only entries with lower numbers.")] = None,
    ) -> dict[str, Any]:
        found = await office.ledger_history(principal, scope_text, limit=limit, before=before)
        return {"entries": found}

    @routes.post("/ledger/verify", summary="Recompute the ledger and report each difference")
    async def verify(principal: Caller) -> dict[str, Any]:
        return await office.verify_ledger(principal)

    return routes
