"""How the embedded llama.cpp server is started."""

import sys
from importlib import metadata

from trivet.config.settings import LaunchSettings
from trivet.domain.errors import ConfigError
from trivet.domain.surfaces import EMBEDDINGS
from trivet.domain.tiers import Deployment


def server_command(deployment: Deployment, launch: LaunchSettings, port: int) -> list[str]:
    """Return the command of a server for this deployment on 127.0.0.1:port.

    Start it with a pipe as standard input and keep the pipe's other end: the server ends when it closes.
    Each of the deployment's slots gets its whole context.

    Raises:
        ConfigError: there is no model file.
    """
    if launch.path is None:
        raise ConfigError(
            f"{deployment.name} needs the GGUF file that llama.cpp shall load.", param="launch.path"
        )
    kv_type = ("--kv-type", launch.kv_dtype) if launch.kv_dtype is not None else ()
    return [
        *(sys.executable, "-m", "trivet.engines.llamacpp_server"),
        *("--model", str(launch.path.expanduser())),
        *("--port", str(port)),
        *("--alias", deployment.model),
        *("--context", str(deployment.context_tokens)),
        *("--slots", str(deployment.slots)),
        *("--threads", str(launch.threads)),
        *("--gpu-layers", str(launch.gpu_layers)),
        *kv_type,
        *(("--embeddings",) if EMBEDDINGS in deployment.capabilities else ()),
        *launch.arguments,
    ]


def server_version() -> str | None:
    """Return the version of the wheel that holds the server; None where it is not installed."""
    try:
        return f"xllamacpp-{metadata.version('xllamacpp')}"
    except metadata.PackageNotFoundError:
        return None
