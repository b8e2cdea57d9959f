"""How a vLLM server is started: planned arguments, and an environment in which nothing phones home.

Trivet never imports vLLM: it runs the server of an installation of its own (`launch.command`), and talks
HTTP to it. Argument names: `vllm/engine/arg_utils.py` and `vllm/entrypoints/launchers/cli_args.py` of v0.32.0
(before, `entrypoints/openai/cli_args.py`).
"""

import shutil
from collections.abc import Sequence

from trivet.config.settings import LaunchSettings
from trivet.domain.surfaces import Surface, lack_of
from trivet.domain.tiers import Deployment, is_gpu

API_SERVER_MODULE = "vllm.entrypoints.openai.api_server"


def server_command(
    deployment: Deployment, launch: LaunchSettings, port: int, *, context_pinned: bool = True
) -> list[str]:
    """Return the command of a vLLM server for this deployment on 127.0.0.1:port.

    What the operator left open, apart from the slots that Trivet counts on, is left to vLLM; a context window
    that was not chosen is the model's own.
    """
    program = list(launch.command or default_command())
    model = str(launch.path.expanduser()) if launch.path is not None else deployment.model
    # `vllm serve` takes the model by position, the module by name.
    command = [*program, model] if program[-1] == "serve" else [*program, "--model", model]
    # Probes would fill its log with access lines.
    command += ["--uvicorn-log-level", "warning"]
    command += ["--served-model-name", deployment.model, "--host", "127.0.0.1", "--port", str(port)]
    if context_pinned:
        command += ["--max-model-len", str(deployment.context_tokens)]
    command += ["--max-num-seqs", str(deployment.slots)]
    if launch.tensor_parallel > 1:
        command += ["--tensor-parallel-size", str(launch.tensor_parallel)]
    if launch.gpu_memory_utilization is not None:
        command += ["--gpu-memory-utilization", f"{launch.gpu_memory_utilization:g}"]
    if launch.max_batched_tokens is not None:
        command += ["--max-num-batched-tokens", str(launch.max_batched_tokens)]
    if launch.kv_dtype is not None:
        command += ["--kv-cache-dtype", launch.kv_dtype]
    if deployment.swap_group is not None and any(is_gpu(device) for device in deployment.devices):
        # A CPU build refuses to start with it.
        command += ["--enable-sleep-mode"]
    if lack_of(deployment, Surface.CHAT) is not None:
        command += ["--runner", "pooling"]  # vLLM serves vectors or text, never both
    return [*command, *launch.arguments]


def default_command() -> Sequence[str]:
    """Return `vllm serve` if it is on the PATH, else the API server's module under the PATH's Python."""
    vllm = shutil.which("vllm")
    return [vllm, "serve"] if vllm else [shutil.which("python") or "python3", "-m", API_SERVER_MODULE]


def server_environment(api_key: str | None) -> dict[str, str | None]:
    """Return the variables that a vLLM server gets: no usage reports, and the key that Trivet sends.

    vLLM reads the key from the variable, so it does not stand in the process list. Without one the variable
    is taken away: it may be in Trivet's own environment for another server.
    """
    return {
        # The three switches of vLLM's and the Hugging Face libraries' reports (docs: usage_stats).
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_API_KEY": api_key,
    }
