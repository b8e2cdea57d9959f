"""`/api/v1/keys`: API keys."""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from trivet.admin import KeyOffice, KeyOrder
from trivet.api.guard import Caller
from trivet.api.limit_values import Limits, told


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    scope: str = Field(description="Dotted slug: organisation, team, user.", examples=["acme.search.ana"])
    role: str = Field("tenant", description="`admin`, `auditor`, `tenant_admin` or `tenant`.")
    priority: str = Field("interactive", description="`critical`, `interactive` or `batch`.")
    tiers: list[str] = Field(default_factory=list, description="Tiers the key may use; empty means all.")
    models: list[str] = Field(
        default_factory=list, description="Deployments the key may use; empty means all."
    )
    label: str = ""
    expires_at: str | None = Field(None, description="ISO instant; null for never.")
    own_scope: bool = Field(False, description="Charge it to a scope of its own right below `scope`.")
    limits: Limits | None = Field(
        None, description="Limits of this key alone, as for a budget; they imply `own_scope`."
    )


class KeyChange(BaseModel):
    """What is to change of a key."""

    model_config = ConfigDict(extra="forbid")

    priority: str | None = Field(None, description="`critical`, `interactive` or `batch`.")
    label: str | None = None


class Rotation(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: float = Field(86_400.0, description="Seconds for which the old key still works.")


def router(office: KeyOffice) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["keys"])

    @routes.get("/keys", summary="The keys that you may see, without their secrets")
    async def keys(principal: Caller) -> dict[str, Any]:
        return {"keys": [record.as_json() for record in await office.list(principal)]}

    @routes.post("/keys", summary="Make a key; its text is shown this once", status_code=201)
    async def create_key(principal: Caller, wanted: NewKey) -> dict[str, Any]:
        order = KeyOrder(
            scope=wanted.scope,
            role=wanted.role,
            priority=wanted.priority,
            tiers=tuple(wanted.tiers),
            models=tuple(wanted.models),
            label=wanted.label,
            expires_at=wanted.expires_at,
            own_scope=wanted.own_scope,
            limits=None if wanted.limits is None else told(wanted.limits),
        )
        text, record = await office.create(principal, order)
        return {"key": text, **record.as_json()}

    @routes.patch("/keys/{key_id}", summary="Change a key's priority or label")
    async def change_key(principal: Caller, key_id: str, wanted: KeyChange) -> dict[str, Any]:
        changed = await office.change(principal, key_id, priority=wanted.priority, label=wanted.label)
        return changed.as_json()

    @routes.post(
        "/keys/{key_id}/rotate", summary="Replace a key; the old one lives on a while", status_code=201
    )
    async def rotate_key(principal: Caller, key_id: str, wanted: Rotation | None = None) -> dict[str, Any]:
        overlap_s = (wanted or Rotation()).overlap_s
        text, record = await office.rotate(principal, key_id, overlap_s=overlap_s)
        return {"key": text, **record.as_json()}

    @routes.delete("/keys/{key_id}", summary="Revoke a key", status_code=204)
    async def revoke_key(principal: Caller, key_id: str) -> Response:
        await office.revoke(principal, key_id)
        return Response(status_code=204)

    return routes
