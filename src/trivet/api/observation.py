"""Liveness, readiness and metrics. Open to all who can reach the port: they name no tenant and no text."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from trivet.execution.drain import Drain
from trivet.fleet import Fleet
from trivet.metering import TrivetCollector


def router(
    fleet: Fleet, collector: TrivetCollector, drain: Drain, store_answers: Callable[[], bool]
) -> APIRouter:
    """Return the routes that probes and Prometheus call.

    However often they are called, nobody else is asked: what they tell is known here. `store_answers` says
    whether holds can be made.
    """
    routes = APIRouter(tags=["observation"])

    # Also HEAD: some load balancers and `wget --spider` ask so.
    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz", summary="The process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", summary="The store takes holds, and at least one engine can take a request")
    async def readyz() -> JSONResponse:
        states = {offer.deployment.name: offer.state for offer in fleet.offers()}
        store = store_answers()
        told: dict[str, Any] = {"store": "ready" if store else "unavailable", "deployments": states}
        if drain.begun:
            told["reason"] = "Trivet is stopping."
        elif not store:
            told["reason"] = "The store does not answer: no request can be held on its budgets."
        elif "ready" not in states.values():
            told["reason"] = "No engine is ready."
        ready = "reason" not in told
        return JSONResponse(
            {"status": "ready" if ready else "stopping" if drain.begun else "not_ready", **told},
            status_code=200 if ready else 503,
            headers={"cache-control": "no-store"},
        )

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(collector.render(), media_type=collector.content_type)

    return routes
