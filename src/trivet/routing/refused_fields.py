"""Fields of a body that Trivet does not pass on, each with its reason."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trivet.domain.errors import RequestMalformed

_CAP = "It changes how much is generated behind the cap that the budget holds."
_CAP_HINT = "Use max_tokens or max_completion_tokens."
_CHOICES_HINT = "Use n."
_ENGINE = "It reaches into the engine, which other callers share."
_CLIENT = "It steers a client library, and Trivet decides where a request goes."
_CLIENT_HINT = "Write what is meant for the engine at the top of the body."

REFUSED_FIELDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "n_predict": (_CAP, _CAP_HINT),  # llama.cpp
        "max_new_tokens": (_CAP, _CAP_HINT),  # text-generation-inference
        "num_predict": (_CAP, _CAP_HINT),  # Ollama
        "options": (_CAP, _CAP_HINT),  # Ollama: holds num_predict and num_ctx
        "n_cmpl": (_CAP, _CHOICES_HINT),  # llama.cpp
        "best_of": (_CAP, _CHOICES_HINT),  # vLLM
        "use_beam_search": (_CAP, _CHOICES_HINT),  # vLLM
        "prompt_logprobs": ("It makes an engine answer for every token of the prompt.", "Use logprobs."),
        "id_slot": (_ENGINE, "Leave it out."),  # llama.cpp
        "lora": (_ENGINE, "Give the adapter a deployment of its own."),  # llama.cpp
        "kv_transfer_params": (_ENGINE, "Leave it out."),  # vLLM
        "api_base": (_CLIENT, _CLIENT_HINT),
        "base_url": (_CLIENT, _CLIENT_HINT),
        "api_key": (_CLIENT, "Send your key in the Authorization header."),
        "mock_response": (_CLIENT, "Leave it out."),
        "extra_body": (_CLIENT, _CLIENT_HINT),
        "extra_headers": (_CLIENT, "Send headers as headers."),
    }
)
"""By field: why it is refused, and what to do instead. A refusal is clearer than an answer without it."""


def refuse_fields(body: Mapping[str, Any]) -> None:
    """Refuse a body that holds one of REFUSED_FIELDS; null counts as absent.

    Raises:
        RequestMalformed: naming the field and the reason.
    """
    if REFUSED_FIELDS.keys().isdisjoint(body):
        return
    for name in body:
        if name in REFUSED_FIELDS and body[name] is not None:
            reason, hint = REFUSED_FIELDS[name]
            raise RequestMalformed(f"{name} is not accepted. {reason}", hint=hint, param=name)
