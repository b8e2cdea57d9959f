"""Whether a body that comes later is still the request that was decided on. Pure."""

from dataclasses import replace

from trivet.domain.decisions import Decision
from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import ChatRequest, Needs, Principal
from trivet.routing.eligibility import OPTIMISTIC_BYTES_PER_TOKEN, may_use
from trivet.routing.features import prompt_ceiling_tokens
from trivet.routing.fields import AUTO


def refit(
    decision: Decision,
    request: ChatRequest,
    needs: Needs,
    principal: Principal,
    *,
    asked_model: str,
    held_output: int | None,
) -> Decision:
    """Return the decision for this body: with its own lower cap, and with the candidates that can serve it.

    Args:
        decision: the earlier one.
        request: the body that has come now.
        needs: what it requires.
        principal: who sends it; the key may be another of the same tenant.
        asked_model: what `model` was when it was decided.
        held_output: output tokens held, of all choices together; None where nothing is held.

    Raises:
        RequestMalformed: it needs more than was decided on or held; `param` names what.
    """
    chosen = decision.deployment
    known = {AUTO, asked_model, chosen.name, chosen.known_as, chosen.model, chosen.tier.name}
    if request.model not in known:
        raise _other("model", f"it was {asked_model!a}, and {chosen.name} was chosen")
    template_tokens = max(candidate.deployment.template_tokens for candidate in decision.candidates)
    ceiling = prompt_ceiling_tokens(needs, template_tokens)
    if ceiling > decision.estimated.prompt_tokens:
        raise _other(
            "messages", f"it may have up to {decision.estimated.prompt_tokens} tokens, not {ceiling}"
        )
    most = decision.max_output_tokens
    if request.max_tokens is not None and request.max_tokens > most:
        raise _other("max_tokens", f"at most {most} were granted")
    cap = min(most, request.max_tokens or most)
    if held_output is not None and cap * request.n > held_output:
        raise _other("n", f"{held_output} output tokens are held, for all choices together")
    candidates = tuple(
        candidate
        for candidate in decision.candidates
        if needs.capabilities <= candidate.deployment.capabilities
        and may_use(principal, candidate.deployment)
        and needs.window_bytes // OPTIMISTIC_BYTES_PER_TOKEN < candidate.deployment.context_tokens
        and (candidate.deployment.local or not request.hints.local_only)
    )
    if not candidates or candidates[0].deployment.name != chosen.name:
        raise _other("messages", f"{chosen.name} cannot serve what it needs now, or this key may not use it")
    return replace(decision, candidates=candidates, max_output_tokens=cap)


def _other(param: str, why: str) -> RequestMalformed:
    return RequestMalformed(
        f"The body does not fit the decision: {param}: {why}.",
        hint="Send what was decided on, or leave x-trivet-decision-id out.",
        param=param,
    )
