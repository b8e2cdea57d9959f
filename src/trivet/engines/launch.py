"""How an engine that Trivet runs itself is started: its command, its environment, its time to load."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trivet.config.settings import LaunchSettings
from trivet.domain.gpus import visibility
from trivet.domain.observations import MemoryObservation
from trivet.domain.tiers import Deployment, EngineKind, is_gpu
from trivet.engines import llamacpp, vllm_server
from trivet.engines.llamacpp_log import read_llamacpp_log
from trivet.engines.vllm_log import read_vllm_log

START_TIMEOUT_S: dict[EngineKind, float] = {"llamacpp": 60.0, "vllm": 600.0}
"""How long loading may take unless the operator says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """A command ready to be run: a server that speaks OpenAI's wire format on 127.0.0.1:`port`."""

    command: tuple[str, ...]
    port: int
    environment: Mapping[str, str | None]
    """Variables to set beside those of this process; None takes one away."""
    start_timeout_s: float
    fingerprint: str
    """The same for plans that start the same engine, whatever the port."""

    @property
    def url(self) -> str:
        """Return where the engine will answer."""
        return f"http://127.0.0.1:{self.port}"


def plan_launch(
    deployment: Deployment,
    launch: LaunchSettings,
    port: int,
    *,
    context_pinned: bool = True,
    api_key: str | None = None,
) -> LaunchPlan:
    """Return how to start the deployment's engine.

    Args:
        deployment: of a kind that can be launched: `llamacpp` or `vllm`.
        launch: its settings.
        port: a free one on loopback.
        context_pinned: the operator chose the context window; else vLLM takes the model's own.
        api_key: what Trivet will send; vLLM is told to ask for it.
    """
    # The engine sees its own GPUs and no other.
    environment = visibility([device for device in deployment.devices if is_gpu(device)])
    if deployment.engine == "vllm":
        command = vllm_server.server_command(deployment, launch, port, context_pinned=context_pinned)
        environment |= vllm_server.server_environment(api_key)
        if deployment.swap_group is not None:
            # The routes to sleep and to wake are vLLM's development mode's; it listens on loopback only.
            environment["VLLM_SERVER_DEV_MODE"] = "1"
    else:
        command = llamacpp.server_command(deployment, launch, port)
    environment |= launch.environment
    return LaunchPlan(
        command=tuple(command),
        port=port,
        environment=environment,
        start_timeout_s=launch.start_timeout_s or START_TIMEOUT_S[deployment.engine],
        fingerprint=_fingerprint(command, environment, port),
    )


def read_start_log(engine: EngineKind, text: str) -> MemoryObservation:
    """Return what an engine's log says of the memory that it took when it started."""
    if engine == "vllm":
        return read_vllm_log(text)
    seen = read_llamacpp_log(text)
    return seen if seen.engine_version else replace(seen, engine_version=llamacpp.server_version())


def _fingerprint(command: Sequence[str], environment: Mapping[str, str | None], port: int) -> str:
    # The port is any free one; everything else decides what the engine is.
    told = [word for word in command if word != str(port)], sorted(environment.items())
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
