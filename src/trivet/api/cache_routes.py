"""`/api/v1/cache`: what the response cache holds, and how it is emptied."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from trivet.admin import CacheOffice
from trivet.api.guard import Caller

ScopeFilter = Annotated[str | None, Query(alias="scope", description="Only this scope and below.")]


def router(office: CacheOffice) -> APIRouter:
    """Return both routes."""
    routes = APIRouter(tags=["cache"])

    @routes.get("/cache", summary="What the response cache holds, and what it saved")
    async def stats(principal: Caller, scope_text: ScopeFilter = None) -> dict[str, Any]:
        return await office.stats(principal, scope_text)

    @routes.delete("/cache", summary="Remove kept answers")
    async def clear(principal: Caller, scope_text: ScopeFilter = None) -> dict[str, Any]:
        return await office.clear(principal, scope_text)

    return routes
