"""Liveness, readiness and metrics. Open to all who can reach the port: they name no tenant and no text."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from trivet.execution.drain import Drain
from trivet.fleet import Fleet
from trivet.metering import TrivetCollector


def router(fleet: Fleet, collector: TrivetCollector, drain: Drain) -> APIRouter:
    """Return the routes that probes and Prometheus call."""
    routes = APIRouter(tags=["observation"])

    # Also HEAD: some load balancers and `wget --spider` ask so.
    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz", summary="The process lives")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", summary="At least one engine can take a request")
    async def readyz() -> JSONResponse:
        states = {offer.deployment.name: offer.state for offer in fleet.offers()}
        ready = "ready" in states.values() and not drain.begun
        status = "stopping" if drain.begun else "ready" if ready else "not_ready"
        return JSONResponse(
            {"status": status, "deployments": states},
            status_code=200 if ready else 503,
            headers={"cache-control": "no-store"},
        )

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(collector.render(), media_type=collector.content_type)

    return routes
