"""`/api/v1`: budgets, keys, reports, engines, the ledger's proof."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from trivet.admin import Office
from trivet.api.guard import PRINCIPAL
from trivet.domain.requests import Principal


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    scope: str = Field(description="Dotted slug: organisation, team, user.", examples=["acme.search.ana"])
    role: str = Field("tenant", description="`tenant` or `admin`.")
    tiers: list[str] = Field(default_factory=list, description="Tiers the key may use; empty means all.")
    models: list[str] = Field(
        default_factory=list, description="Deployments the key may use; empty means all."
    )
    label: str = ""
    expires_at: str | None = Field(None, description="ISO instant; null for never.")


class LimitValue(BaseModel):
    """A limit with what critical requests may use beyond it."""

    model_config = ConfigDict(extra="forbid")

    limit: StrictInt | None
    critical_allowance: StrictInt = 0


class NewTimeZone(BaseModel):
    """Where an organisation's calendar is."""

    model_config = ConfigDict(extra="forbid")

    time_zone: str = Field(description="IANA name.", examples=["Europe/Berlin"])


Since = Annotated[str | None, Query(description="Span before now (24h, 7d) or ISO instant; default 30 days.")]
Until = Annotated[str | None, Query(description="Span before now or ISO instant; default now.")]
ScopeFilter = Annotated[
    str | None, Query(alias="scope", description="Only this scope and what lies below it.")
]


def router(office: Office) -> APIRouter:
    """Return the administrative routes; the guard has put the caller into the request's scope."""

    async def caller(request: Request) -> Principal:
        principal: Principal = request.scope[PRINCIPAL]
        return principal

    routes = APIRouter(prefix="/api/v1")
    for part in (_budgets, _keys, _reports):
        routes.include_router(part(office, caller))
    return routes


Caller = Callable[[Request], Awaitable[Principal]]


def _budgets(office: Office, caller: Caller) -> APIRouter:
    Who = Annotated[Principal, Depends(caller)]  # noqa: N806 - a type
    routes = APIRouter(tags=["budgets"])

    @routes.get("/budgets", summary="Current counters of all scopes you may see")
    async def budgets(principal: Who) -> dict[str, Any]:
        return {"rows": await office.budget_rows(principal)}

    @routes.get("/budgets/{scope}/status", summary="One scope's budgets, burn rate, projection")
    async def budget_status(principal: Who, scope: str) -> dict[str, Any]:
        return (await office.budget_status(principal, scope)).as_json()

    @routes.put("/budgets/{scope}", summary='Set limits: {"daily": 100000, "usd_micros.monthly": null}')
    async def set_budget(
        principal: Who, scope: str, limits: dict[str, StrictInt | LimitValue | None]
    ) -> dict[str, Any]:
        told = {
            name: value.model_dump() if isinstance(value, LimitValue) else value
            for name, value in limits.items()
        }
        return (await office.set_budget(principal, scope, told)).as_json()

    @routes.put("/budgets/{scope}/time-zone", summary="Set where an organisation's days begin")
    async def set_time_zone(principal: Who, scope: str, wanted: NewTimeZone) -> dict[str, Any]:
        return await office.set_time_zone(principal, scope, wanted.time_zone)

    @routes.delete("/budgets/{scope}", summary="Remove a scope's own limits", status_code=204)
    async def clear_budget(principal: Who, scope: str) -> Response:
        await office.clear_budget(principal, scope)
        return Response(status_code=204)

    return routes


def _keys(office: Office, caller: Caller) -> APIRouter:
    Who = Annotated[Principal, Depends(caller)]  # noqa: N806 - a type
    routes = APIRouter(tags=["keys"])

    @routes.get("/keys", summary="All keys, without their secrets")
    async def keys(principal: Who) -> dict[str, Any]:
        return {"keys": [record.as_json() for record in await office.keys(principal)]}

    @routes.post("/keys", summary="Make a key; its text is shown this once", status_code=201)
    async def create_key(principal: Who, wanted: NewKey) -> dict[str, Any]:
        text, record = await office.create_key(
            principal,
            scope_text=wanted.scope,
            role=wanted.role,
            tiers=wanted.tiers,
            models=wanted.models,
            label=wanted.label,
            expires_at=wanted.expires_at,
        )
        return {"key": text, **record.as_json()}

    @routes.delete("/keys/{key_id}", summary="Revoke a key", status_code=204)
    async def revoke_key(principal: Who, key_id: str) -> Response:
        await office.revoke_key(principal, key_id)
        return Response(status_code=204)

    return routes


def _reports(office: Office, caller: Caller) -> APIRouter:
    Who = Annotated[Principal, Depends(caller)]  # noqa: N806 - a type
    routes = APIRouter(tags=["reports"])

    @routes.get("/savings", summary="Device seconds used, against everything on the heaviest tier")
    async def savings(
        principal: Who, since: Since = None, until: Until = None, scope_text: ScopeFilter = None
    ) -> dict[str, Any]:
        return await office.savings(principal, since=since, until=until, scope_text=scope_text)

    @routes.get("/usage", summary="Requests, tokens and device seconds, grouped")
    async def usage(
        principal: Who,
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
    async def deployments(principal: Who) -> dict[str, Any]:
        return {"deployments": await office.deployments(principal)}

    @routes.get("/ledger/history", summary="Entries of a scope and all below it, the latest first")
    async def history(
        principal: Who,
        scope_text: Annotated[str, Query(alias="scope", description="Whose entries.")],
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        before: Annotated[int | None, Query(description="Only entries with lower numbers.")] = None,
    ) -> dict[str, Any]:
        found = await office.ledger_history(principal, scope_text, limit=limit, before=before)
        return {"entries": found}

    @routes.post("/ledger/verify", summary="Recompute the ledger and report each difference")
    async def verify(principal: Who) -> dict[str, Any]:
        return await office.verify_ledger(principal)

    return routes
