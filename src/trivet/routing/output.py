"""How many tokens an answer may have."""

from trivet.domain.decisions import Reason
from trivet.domain.requests import Needs
from trivet.domain.tiers import Deployment
from trivet.routing.features import prompt_ceiling_tokens
from trivet.routing.policies import Policy

USUAL_BYTES_PER_TOKEN = 3
LEAST_SHARE_OF_WINDOW = 8


def output_cap(
    asked: int | None, policy: Policy, deployment: Deployment, needs: Needs
) -> tuple[int, tuple[Reason, ...]]:
    """Return the cap of one choice, in tokens, with the reasons for lowering what was asked or is usual.

    What the caller asks for is granted up to the tier's cap (or the policy's, where that is higher) and
    the context window less one. A caller that names none gets the policy's default, else the tier's, as
    far as the window has room for it beside the prompt at the usual 3 bytes per token, and an eighth of
    the window in any case: an engine refuses a cap that does not fit although the caller never asked.

    Args:
        asked: the caller's own limit.
        policy: of the task type.
        deployment: the one chosen.
        needs: the request's.
    """
    if not needs.surface.generates:
        return 0, ()
    tier, window = deployment.tier, deployment.context_tokens
    usual = policy.max_output_tokens or tier.max_output_tokens
    if asked is None:
        prompt = prompt_ceiling_tokens(needs, deployment.template_tokens)
        prompt -= needs.prompt_bytes - needs.window_bytes // USUAL_BYTES_PER_TOKEN
        room = max(1, window - prompt, window // LEAST_SHARE_OF_WINDOW)
        cap = max(1, min(usual, room, window - 1))
        if cap == usual:
            return cap, ()
        text = (
            f"The answer is limited to {cap} tokens, so that it fits the window of {window} with the prompt."
        )
        return cap, (Reason("output_fitted", text),)
    most = max(usual, tier.max_output_tokens)
    cap = max(1, min(asked, most, window - 1))
    if cap == asked:
        return cap, ()
    text = f"The caller asks for up to {asked} tokens; {deployment.name} (tier {tier.name}) gives {cap}."
    return cap, (Reason("output_capped", text),)
