"""Take what an engine says of its model, where it differs from the plan's."""

from dataclasses import replace

from trivet.domain.engine_states import EngineState, out_of_service
from trivet.domain.errors import ConfigError
from trivet.domain.tiers import Deployment
from trivet.engines.protocol import Health
from trivet.engines.served import match_model
from trivet.fleet.plan import EndpointPlan


def adopt_served(plan: EndpointPlan, deployment: Deployment, health: Health) -> tuple[Deployment, Health]:
    """Return the deployment with the engine's own name and window for the model, and a health that says so.

    Args:
        plan: what was configured.
        deployment: as it is now.
        health: what a probe found: a ready engine, and its models.
    """
    wanted = plan.deployment.model
    if plan.launch is not None and wanted not in [model.name for model in health.models]:
        # We named it ourselves, so this is another server, which took the port before ours could.
        others = ", ".join(model.name for model in health.models)
        return deployment, Health(EngineState.FAILED, f"At its port another server answers, with {others}.")
    if deployment.engine in ("vllm", "llamacpp"):
        try:
            served = match_model(wanted, health.models)
        except ConfigError as error:
            state = out_of_service(launched=plan.launch is not None)
            return deployment, Health(state, str(error), health.models)
    elif deployment.engine == "openai" and wanted in (names := [model.name for model in health.models]):
        served = health.models[names.index(wanted)]
    else:
        return deployment, health
    context_tokens = plan.deployment.context_tokens
    if served.context_tokens:
        pinned = plan.context_pinned
        context_tokens = min(context_tokens, served.context_tokens) if pinned else served.context_tokens
    # Whoever asked for one name and gets another shall see it.
    detail = health.detail if served.name == wanted else f"serves {served.name} for {wanted}"
    adopted = replace(deployment, model=served.name, context_tokens=context_tokens)
    return adopted, replace(health, detail=detail)
