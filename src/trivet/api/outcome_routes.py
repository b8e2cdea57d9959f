"""`POST /api/v1/decisions/{id}/outcome`: what a caller that only routes has used."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from trivet.api.guard import Caller
from trivet.execution import Pipeline
from trivet.execution.outside import Report


class OutcomeReport(BaseModel):
    """What a request used that was held for with `reserve: true`."""

    model_config = ConfigDict(extra="forbid")

    prompt_tokens: StrictInt = Field(ge=0)
    completion_tokens: StrictInt = Field(ge=0)
    latency_ms: float | None = Field(None, ge=0)
    ok: StrictBool = True


def router(pipeline: Pipeline) -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/api/v1", tags=["decisions"])

    @routes.post("/decisions/{decision_id}/outcome", summary="Settle a hold by what was used elsewhere")
    async def outcome(principal: Caller, decision_id: str, told: OutcomeReport) -> dict[str, Any]:
        report = Report(
            prompt_tokens=told.prompt_tokens,
            completion_tokens=told.completion_tokens,
            latency_ms=told.latency_ms,
            ok=told.ok,
        )
        settled = await pipeline.report(decision_id, report, principal)
        return {
            "decision_id": decision_id,
            "state": settled.state,
            "charged": settled.charged_amounts.as_json(),
            "overrun": settled.overrun_amounts.as_json(),
            "budget_remaining": settled.remaining,
        }

    return routes
