"""All routes in one table."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from trivet.admin import Offices
from trivet.api import administration, batch_routes, observation, outcome_routes
from trivet.api.asgi import BodyBounds
from trivet.api.auth import Doorkeeper
from trivet.api.batch_routes import BATCH_PATH, BatchDoor
from trivet.api.faults import install_fault_pages
from trivet.api.guard import Guard
from trivet.api.inference import Inference
from trivet.api.replies import LastResort
from trivet.api.routing import DecisionDoor, ModelList
from trivet.config.batch_settings import BatchSettings
from trivet.config.settings import BudgetSettings, ServerSettings
from trivet.domain.surfaces import Surface
from trivet.execution import Pipeline
from trivet.fleet import Fleet
from trivet.metering import TrivetCollector
from trivet.version import __version__

DECIDE_PATH = "/api/v1/route"
OWN_DOORS = frozenset({("POST", DECIDE_PATH), ("POST", BATCH_PATH)})
"""What checks keys and bodies for itself."""
INFERENCE_PATHS = {
    "/v1/chat/completions": Surface.CHAT,
    "/v1/completions": Surface.COMPLETIONS,
    "/v1/embeddings": Surface.EMBEDDINGS,
    "/v1/responses": Surface.RESPONSES,
    "/v1/messages": Surface.MESSAGES,
    "/v1/messages/count_tokens": Surface.COUNT_TOKENS,
    "/tokenize": Surface.TOKENIZE,
}


@dataclass(frozen=True, slots=True)
class Doors:
    """What the doors open to."""

    pipeline: Pipeline
    offices: Offices
    fleet: Fleet
    doorkeeper: Doorkeeper
    collector: TrivetCollector
    tier_names: tuple[str, ...]
    batch: BatchSettings
    store_answers: Callable[[], bool]


class Application(FastAPI):
    """FastAPI, with a way of their own for the inference routes: a request to them meets no middleware.

    Half of what a request would cost besides the engine is spent there otherwise.
    """

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Take a POST to its endpoint; whatever else comes is for the routes."""
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None:
                return endpoint(scope, receive, send)
        return super().__call__(scope, receive, send)

    @cached_property
    def _endpoints(self) -> dict[str, LastResort]:
        return {
            route.path: route.endpoint
            for route in self.router.routes
            if isinstance(route, Route)
            and isinstance(route.endpoint, LastResort)
            and route.methods == {"POST"}
            and not route.param_convertors
        }


def build_application(doors: Doors, server: ServerSettings, budgets: BudgetSettings) -> Application:
    """Return the ASGI application. The inference routes bypass FastAPI's request handling."""
    app = Application(
        title="Trivet",
        version=__version__,
        summary="Self-hosted local-inference tier orchestrator.",
        docs_url=None,  # the page would load scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,  # the address would be made of the request's own `Host`
    )
    bounds = BodyBounds(server.body_limit_bytes, server.body_timeout_s)
    decide = DecisionDoor(
        doors.pipeline,
        doors.offices.books,
        doors.doorkeeper,
        bounds=bounds,
        exhausted_status=budgets.exhausted_status,
    )
    models = ModelList(doors.fleet, doors.doorkeeper, doors.tier_names)
    app.router.routes += [
        *_inference_routes(doors, server, budgets),
        Route("/v1/models", LastResort(models), methods=["GET"]),
        Route("/v1/models/{name:path}", LastResort(models), methods=["GET"]),
        Route(DECIDE_PATH, LastResort(decide), methods=["POST"]),
        Route(BATCH_PATH, LastResort(_batch_door(doors, server, budgets)), methods=["POST"]),
    ]
    app.include_router(outcome_routes.router(doors.pipeline))
    app.include_router(administration.router(doors.offices))
    app.include_router(batch_routes.router(doors.offices.batches))
    app.include_router(
        observation.router(doors.fleet, doors.collector, doors.pipeline.drain, doors.store_answers)
    )
    app.add_middleware(
        Guard, doorkeeper=doors.doorkeeper, own_doors=OWN_DOORS, body_timeout_s=server.body_timeout_s
    )
    install_fault_pages(app, exhausted_status=budgets.exhausted_status)
    return app


def _batch_door(doors: Doors, server: ServerSettings, budgets: BudgetSettings) -> BatchDoor:
    return BatchDoor(
        doors.offices.batches,
        doors.pipeline if doors.fleet.offers() else None,
        doors.doorkeeper,
        settings=doors.batch,
        line_limit_bytes=server.body_limit_bytes,
        exhausted_status=budgets.exhausted_status,
    )


def _inference_routes(doors: Doors, server: ServerSettings, budgets: BudgetSettings) -> list[Route]:
    """Return a route for each surface; all of them go the same way."""

    def serving(surface: Surface) -> LastResort:
        endpoint = Inference(
            surface,
            doors.pipeline,
            doors.doorkeeper,
            bounds=BodyBounds(server.body_limit_bytes, server.body_timeout_s),
            write_timeout_s=server.write_timeout_s,
            keep_alive_s=server.keep_alive_interval_s,
            exhausted_status=budgets.exhausted_status,
        )
        return LastResort(endpoint, surface)

    return [Route(path, serving(surface), methods=["POST"]) for path, surface in INFERENCE_PATHS.items()]
