"""Find the model that a deployment means among those that an engine serves."""

import re
from collections.abc import Sequence

from trivet.domain.errors import ConfigError
from trivet.engines.protocol import ServedModel

_SEPARATORS = re.compile(r"[-_:. ]+")
_VARIANT = re.compile(
    r"-(?:instruct|it|chat|latest|gguf|safetensors|awq|gptq|bnb|marlin|quantized|dynamic"
    r"|u?int[48]|n?v?fp(?:4|8|16)|mxfp4|nf4|b?f(?:16|32)|w\da\d+|\d+bit"
    r"|i?q\d(?:-(?:k|0|1|xs|xxs|nl))?(?:-(?:s|m|l|xl))?)$"
)


def match_model(wanted: str, served: Sequence[ServedModel]) -> ServedModel:
    """Return the served model that `wanted` names.

    Exactly, else by normalised name (`qwen2.5:72b` means `Qwen/Qwen2.5-72B-Instruct-AWQ`), else the only
    one there is.

    Raises:
        ConfigError: none or several fit; the message lists what is served.
    """
    for model in served:
        if model.name == wanted:
            return model
    # The name as written decides first; quantisation and tuning only where that settles nothing.
    for normalised in (_written, _meant):
        fitting = [model for model in served if normalised(model.name) == normalised(wanted)]
        if len(fitting) == 1:
            return fitting[0]
    if len(served) == 1:
        return served[0]
    names = ", ".join(model.name for model in served) or "nothing"
    raise ConfigError(
        f"The engine does not serve {wanted!r} under any name that can be told apart; it serves {names}.",
        hint="Write one of these names in the deployment's `model`.",
        param="model",
    )


def _written(name: str) -> str:
    return _SEPARATORS.sub("", _without_organisation(name))


def _meant(name: str) -> str:
    parts = _SEPARATORS.sub("-", _without_organisation(name))
    while (shorter := _VARIANT.sub("", parts)) != parts:
        parts = shorter
    return parts.replace("-", "")


def _without_organisation(name: str) -> str:
    return name.lower().rstrip("/").rpartition("/")[2]
