"""A plan as containers: a compose file, or Kubernetes objects. Pure: data, written as YAML at the end."""

from collections.abc import Mapping
from typing import Any

from trivet.catalog.emit_config import as_yaml, config_document, vllm_arguments
from trivet.catalog.machine import Device
from trivet.catalog.ollama_servers import FIRST_PORT, OllamaServer, ollama_servers
from trivet.catalog.plan import Plan, TierPlan
from trivet.domain.errors import ConfigError

TRIVET_IMAGE = "trivet:local"
OLLAMA_IMAGE = "ollama/ollama:0.34.0"
"""New enough for the catalog's newest tags: gemma4:12b is refused by 0.30.3 and older, qwen3.5 by 0.16."""
VLLM_IMAGE = "vllm/vllm-openai:v0.32.0"
TRIVET_PORT = 8748
VLLM_PORT = 8000
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""The switches of vLLM's and the Hugging Face libraries' reports."""

_GRACE_S = 80
_LOAD_S = 900
"""How long a model may take to be fetched and loaded before its container counts as broken."""
_OLLAMA_HOME = "/root/.ollama"
_HF_HOME = "/root/.cache/huggingface"
_CONFIG_FILE = "/etc/trivet/trivet.yaml"
_STORE = "/var/lib/trivet"
_HEALTH = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:%d/%s', timeout=3)"


def compose_text(plan: Plan) -> str:
    """Return a compose file: Trivet and each engine as a service, GPUs reserved by their UUIDs.

    Raises:
        ConfigError: the plan cannot be run by containers that all start at once.
    """
    _refuse_what_cannot_be(plan)
    services: dict[str, Any] = {}
    volumes: dict[str, Any] = {"trivet-store": {}}
    for server in ollama_servers(plan):
        services[server.name] = _ollama_service(server, plan)
        volumes["ollama-models"] = {}
    for name, tier in _on_vllm(plan).items():
        services[f"vllm-{name}"] = _vllm_service(tier, _before(name, plan))
        volumes["huggingface"] = {}
    config = as_yaml(config_document(plan, _addresses(plan)))
    services["trivet"] = {
        "image": TRIVET_IMAGE,
        "restart": "unless-stopped",
        "init": True,
        "stop_grace_period": f"{_GRACE_S}s",
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - a path inside the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "ports": [f"127.0.0.1:{TRIVET_PORT}:{TRIVET_PORT}"],
        "volumes": [f"trivet-store:{_STORE}"],
        "configs": [{"source": "trivet", "target": _CONFIG_FILE}],
        "depends_on": {name: {"condition": _condition(name, plan)} for name in services},
        "healthcheck": _check("python", TRIVET_PORT, "healthz", 60),
        **_gpu_reservation([plan_device.device for plan_device in plan.devices], plan, "utility"),
    }
    document = {
        "name": "trivet",
        "services": services,
        # Compose replaces $NAME in what it reads; there $$ is a dollar.
        "configs": {"trivet": {"content": config.replace("$", "$$")}},
        "volumes": volumes,
    }
    remarks = (
        "Planned by Trivet. Needs Docker Compose 2.23 and, for GPUs, the NVIDIA container toolkit.",
        "docker compose up --detach; the first start prints an admin key: docker compose logs trivet",
        f"Build {TRIVET_IMAGE} first: docker build -f deploy/Dockerfile -t {TRIVET_IMAGE} .",
        *_paper_remark(plan),
    )
    return as_yaml(document, remarks=remarks)


def k8s_text(plan: Plan) -> str:
    """Return Kubernetes objects: a ConfigMap, and a Deployment and a Service for Trivet and each engine.

    Raises:
        ConfigError: the plan cannot be run by containers that all start at once.
    """
    _refuse_what_cannot_be(plan)
    documents: list[dict[str, Any]] = [
        {
            **_head("v1", "ConfigMap", "trivet-config"),
            "data": {"trivet.yaml": as_yaml(config_document(plan, _addresses(plan)))},
        },
        _claim("trivet-store", 10),
        *_trivet_objects(),
    ]
    servers = ollama_servers(plan)
    if servers:
        documents.append(_claim("ollama-models", 200))
    for server in servers:
        container = _ollama_container(server, plan)
        documents += _engine_objects(server.name, container, FIRST_PORT, "ollama-models", shared_memory=False)
    on_vllm = _on_vllm(plan)
    if on_vllm:
        documents.append(_claim("huggingface", 500))
    for name, tier in on_vllm.items():
        container = _vllm_container(tier)
        documents += _engine_objects(f"vllm-{name}", container, VLLM_PORT, "huggingface", shared_memory=True)
    remarks = (
        "Planned by Trivet. Needs NVIDIA's device plugin, and deploy/Dockerfile's image in your registry.",
        *_sharing_remark(plan),
    )
    return as_yaml(*documents, remarks=remarks)


def _refuse_what_cannot_be(plan: Plan) -> None:
    """Refuse what these containers cannot do."""
    if any(device.device.spec.vendor == "amd" for device in plan.devices):
        raise ConfigError(
            "Containers are written for NVIDIA GPUs only.", hint="Use --emit config or systemd on AMD."
        )
    turns = [name for name, tier in plan.tiers.items() if tier.swapped and tier.variant.engine == "vllm"]
    if len(turns) > 1:
        raise ConfigError(
            f"{' and '.join(turns)} take turns on one GPU, and containers would start both of them at once.",
            hint="Let Trivet start them (--emit config or systemd), or ask for less.",
        )


def _on_vllm(plan: Plan) -> dict[str, TierPlan]:
    return {name: tier for name, tier in plan.tiers.items() if tier.variant.engine == "vllm"}


def _before(name: str, plan: Plan) -> list[str]:
    """Return the vLLM services that a tier's must wait for: those before it on one of its GPUs.

    vLLM measures its GPU while it loads; what another takes or frees meanwhile spoils its figures, or ends
    it.
    """
    tiers = _on_vllm(plan)
    earlier = list(tiers)[: list(tiers).index(name)]
    return [f"vllm-{other}" for other in earlier if set(tiers[other].devices) & set(tiers[name].devices)]


def _condition(name: str, plan: Plan) -> str:
    """Return what Trivet waits for: of a vLLM that shares a GPU with Ollama until it has loaded.

    Trivet has Ollama load its models at once, and that would spoil vLLM's measurement.
    """
    tier = _on_vllm(plan).get(name.removeprefix("vllm-"))
    beside = {d for other in plan.tiers.values() if other.variant.engine == "ollama" for d in other.devices}
    return "service_healthy" if tier is not None and set(tier.devices) & beside else "service_started"


def _addresses(plan: Plan) -> Mapping[str, str]:
    """Return each tier's URL by the name that compose and Kubernetes give its engine."""
    of_ollama = {
        name: f"http://{server.name}:{FIRST_PORT}" for server in ollama_servers(plan) for name in server.tiers
    }
    return {**of_ollama, **{name: f"http://vllm-{name}:{VLLM_PORT}" for name in _on_vllm(plan)}}


def _vllm_command(tier: TierPlan) -> list[str]:
    command = ["--model", tier.variant.ref, "--served-model-name", tier.variant.ref]
    command += ["--host", "0.0.0.0", "--port", str(VLLM_PORT)]  # noqa: S104 - inside its own network
    command += ["--max-model-len", str(tier.context_tokens), "--max-num-seqs", str(tier.sequences)]
    if len(tier.devices) > 1:
        command += ["--tensor-parallel-size", str(len(tier.devices))]
    command += ["--gpu-memory-utilization", f"{tier.gpu_memory_utilization:g}"]
    command += ["--max-num-batched-tokens", str(tier.batched_tokens)]
    if tier.swapped:
        command += ["--enable-sleep-mode"]
    return [*command, *vllm_arguments(tier)]


def _vllm_variables(tier: TierPlan) -> dict[str, str]:
    """Return a vLLM container's variables; its routes for sleeping are open only where Trivet needs them."""
    return {**QUIET, "VLLM_SERVER_DEV_MODE": "1"} if tier.swapped else dict(QUIET)


def _check(program: str, port: int, path: str, start_s: int) -> dict[str, Any]:
    test = ["CMD", program, "-c", _HEALTH % (port, path)]
    return {"test": test, "interval": "10s", "timeout": "5s", "retries": 3, "start_period": f"{start_s}s"}


def _gpu_reservation(devices: list[Device], plan: Plan, *capabilities: str) -> dict[str, Any]:
    if plan.mode == "cpu":
        return {}
    ids = [device.uuid for device in devices]
    reserved = {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu", *capabilities]}
    return {"deploy": {"resources": {"reservations": {"devices": [reserved]}}}}


def _ollama_environment(server: OllamaServer, plan: Plan) -> dict[str, str]:
    # A container sees its own GPUs only, under whatever numbers.
    found = server.environment(plan)
    found.pop("CUDA_VISIBLE_DEVICES", None)
    return found


def _ollama_service(server: OllamaServer, plan: Plan) -> dict[str, Any]:
    return {
        "image": OLLAMA_IMAGE,
        "restart": "unless-stopped",
        "environment": _ollama_environment(server, plan),
        "volumes": [f"ollama-models:{_OLLAMA_HOME}"],
        "healthcheck": {
            "test": ["CMD", "ollama", "list"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 6,
            "start_period": "20s",
        },
        **_gpu_reservation(list(server.devices), plan),
    }


def _vllm_service(tier: TierPlan, after: list[str]) -> dict[str, Any]:
    waits = {"depends_on": {name: {"condition": "service_healthy"} for name in after}} if after else {}
    return {
        "image": VLLM_IMAGE,
        **waits,
        "restart": "unless-stopped",
        "command": _vllm_command(tier),
        "environment": _vllm_variables(tier),
        # Tensor parallel ranks talk through shared memory.
        "ipc": "private",
        "shm_size": "8gb",
        "volumes": [f"huggingface:{_HF_HOME}"],
        "healthcheck": _check("python3", VLLM_PORT, "health", _LOAD_S),
        "deploy": {
            "resources": {
                "reservations": {
                    "devices": [
                        {
                            "driver": "nvidia",
                            "device_ids": [device.uuid for device in tier.devices],
                            "capabilities": ["gpu"],
                        }
                    ]
                }
            }
        },
    }


def _head(version: str, kind: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "trivet"}},
    }


def _claim(name: str, size_gib: int) -> dict[str, Any]:
    request = {"resources": {"requests": {"storage": f"{size_gib}Gi"}}}
    return {
        **_head("v1", "PersistentVolumeClaim", name),
        "spec": {"accessModes": ["ReadWriteOnce"], **request},
    }


def _service(name: str, port: int) -> dict[str, Any]:
    return {
        **_head("v1", "Service", name),
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": port, "targetPort": port}]},
    }


def _deployment(name: str, pod: dict[str, Any]) -> dict[str, Any]:
    return {
        **_head("apps/v1", "Deployment", name),
        "spec": {
            "replicas": 1,
            # Two at once would need the GPU, or the store, twice.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    }


def _probe(path: str, port: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": port}}


def _trivet_objects() -> list[dict[str, Any]]:
    container = {
        "name": "trivet",
        "image": TRIVET_IMAGE,
        "ports": [{"containerPort": TRIVET_PORT}],
        "readinessProbe": _probe("/healthz", TRIVET_PORT),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/trivet"},
            {"name": "store", "mountPath": _STORE},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path inside the container
        ],
    }
    pod = {
        "terminationGracePeriodSeconds": _GRACE_S,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001},
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": "trivet-config"}},
            {"name": "store", "persistentVolumeClaim": {"claimName": "trivet-store"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    return [_deployment("trivet", pod), _service("trivet", TRIVET_PORT)]


def _engine_objects(
    name: str, container: dict[str, Any], port: int, claim: str, *, shared_memory: bool
) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": "models", "persistentVolumeClaim": {"claimName": claim}}]
    if shared_memory:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}})
    container = {"name": name, **container, "ports": [{"containerPort": port}]}
    pod = {"enableServiceLinks": False, "containers": [container], "volumes": volumes}
    return [_deployment(name, pod), _service(name, port)]


def _variables(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _gpu_limit(count: int, plan_mode: str) -> dict[str, Any]:
    return {} if plan_mode == "cpu" else {"resources": {"limits": {"nvidia.com/gpu": count}}}


def _ollama_container(server: OllamaServer, plan: Plan) -> dict[str, Any]:
    return {
        "image": OLLAMA_IMAGE,
        "env": _variables({**_ollama_environment(server, plan), "OLLAMA_HOST": f"0.0.0.0:{FIRST_PORT}"}),
        "readinessProbe": _probe("/api/version", FIRST_PORT),
        "volumeMounts": [{"name": "models", "mountPath": _OLLAMA_HOME}],
        **_gpu_limit(len(server.devices), plan.mode),
    }


def _vllm_container(tier: TierPlan) -> dict[str, Any]:
    return {
        "image": VLLM_IMAGE,
        "args": _vllm_command(tier),
        "env": _variables(_vllm_variables(tier)),
        "readinessProbe": _probe("/health", VLLM_PORT),
        "startupProbe": {
            **_probe("/health", VLLM_PORT),
            "periodSeconds": 10,
            "failureThreshold": _LOAD_S // 10,
        },
        "volumeMounts": [
            {"name": "models", "mountPath": _HF_HOME},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a path inside the container
        ],
        **_gpu_limit(len(tier.devices), "gpu"),
    }


def _paper_remark(plan: Plan) -> tuple[str, ...]:
    if plan.inventory.measured or plan.mode == "cpu":
        return ()
    return ("This machine was described, not measured: replace PLAN-0, ... by the UUIDs of `nvidia-smi -L`.",)


def _sharing_remark(plan: Plan) -> tuple[str, ...]:
    """Say what Kubernetes cannot say by itself: who shares a GPU with whom."""
    used = [device.uuid for tier in plan.tiers.values() for device in tier.devices]
    if plan.mode == "cpu" or len(used) == len(set(used)):
        return ()
    most = max(used.count(uuid) for uuid in used)
    return (
        f"Engines share GPUs here: give the device plugin time-slicing with {most} replicas for each GPU.",
        "It bounds no memory; the plan's figures do. Of several GPUs it does not choose the shared one.",
    )
