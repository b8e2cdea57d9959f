"""`/api/v1/alerts` and `/api/v1/audit`: what fired, whether it arrived, and who changed what."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from trivet.admin import AlertOffice, AuditOffice
from trivet.api.guard import Caller

ScopeFilter = Annotated[str | None, Query(alias="scope", description="Only this scope and below.")]
Most = Annotated[int, Query(ge=1, le=10_000)]


def router(alerts: AlertOffice, audits: AuditOffice) -> APIRouter:
    """Return both families of routes."""
    routes = APIRouter()
    routes.include_router(_alerts(alerts))
    routes.include_router(_audit(audits))
    return routes


def _alerts(office: AlertOffice) -> APIRouter:
    routes = APIRouter(tags=["alerts"])

    @routes.get("/alerts", summary="Thresholds that fired, the latest first, and their delivery")
    async def alerts(principal: Caller, scope_text: ScopeFilter = None, limit: Most = 100) -> dict[str, Any]:
        return await office.alerts(principal, scope_text, limit=limit)

    @routes.post("/alerts/retry", summary="Try to deliver all dead letters anew")
    async def retry(principal: Caller) -> dict[str, Any]:
        return await office.retry(principal)

    @routes.post("/alerts/test", summary="Send a test to the webhook", status_code=202)
    async def test(principal: Caller) -> dict[str, Any]:
        return await office.test(principal)

    return routes


def _audit(office: AuditOffice) -> APIRouter:
    routes = APIRouter(tags=["audit"])

    @routes.get("/audit", summary="Who changed limits, overrides, calendars and keys")
    async def audit(
        principal: Caller,
        scope_text: ScopeFilter = None,
        limit: Most = 100,
        before: Annotated[int | None, Query(description="Only entries with lower numbers.")] = None,
    ) -> dict[str, Any]:
        return await office.trail(principal, scope_text, limit=limit, before=before)

    return routes
