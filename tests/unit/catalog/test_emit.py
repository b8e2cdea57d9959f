"""A plan written out: what comes out is what its reader takes."""

import configparser
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.catalog.test_placement import CATALOG, SIZER, TABLE
from trivet.catalog.demand import read_demand
from trivet.catalog.emit import EmitFormat, emit
from trivet.catalog.emit_config import config_text, preparations
from trivet.catalog.emit_containers import OLLAMA_IMAGE
from trivet.catalog.gpus_text import read_gpus
from trivet.catalog.ollama_servers import ollama_servers
from trivet.catalog.placement import make_plan
from trivet.catalog.plan import Plan
from trivet.config.deployments import build_deployments, launch_of
from trivet.config.load import load_settings
from trivet.domain.errors import ConfigError
from trivet.domain.tiers import HOST_DEVICE

MACHINES = ("RTX3070", "RTX4090", "2xRTX4090", "L40S", "H100", "8xH100", "cpu-16gb", "GB10", "T4")
ROOT = Path(__file__).parents[3]


def on(gpus: str, *texts: str, **options: Any) -> Plan:
    """Return the plan of a described machine."""
    return make_plan(read_gpus(gpus, TABLE), read_demand(texts, **options), CATALOG, TABLE, sizer=SIZER)


def documents(plan: Plan, form: EmitFormat) -> list[Any]:
    """Return the YAML documents of the one file that a form makes."""
    (text,) = emit(plan, form).values()
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("gpus", MACHINES)
@pytest.mark.parametrize("texts", [(), ("sequences=8,context=4096",)], ids=["default", "concurrent"])
def test_the_configuration_loads(gpus: str, texts: tuple[str, ...], tmp_path: Path) -> None:
    """Trivet reads it, and each deployment is what the plan says."""
    plan = on(gpus, *texts)
    path = tmp_path / "trivet.yaml"
    path.write_text(config_text(plan), encoding="utf-8")
    settings = load_settings(config_path=path, environ={}).settings
    deployments = build_deployments(settings)
    assert [deployment.tier.name for deployment in deployments] == list(plan.tiers)
    for deployment, tier in zip(deployments, plan.tiers.values(), strict=True):
        assert (deployment.engine, deployment.model) == (tier.variant.engine, tier.variant.ref)
        assert (deployment.context_tokens, deployment.slots) == (tier.context_tokens, tier.sequences)
        devices = tuple(device.uuid for device in tier.devices) if plan.mode != "cpu" else (HOST_DEVICE,)
        assert deployment.devices == devices
        launch = launch_of(settings, deployment.name)
        assert (launch is not None) == (tier.variant.engine == "vllm")
        if launch is not None:
            assert launch.tensor_parallel == len(tier.devices)
            assert launch.gpu_memory_utilization == tier.gpu_memory_utilization
            assert launch.max_batched_tokens == tier.batched_tokens
    weights = [tier.cost_weight for tier in settings.tiers]
    assert weights == sorted(weights)


@pytest.mark.parametrize("gpus", MACHINES)
def test_shares_of_a_gpu_add_up_to_less_than_it(gpus: str) -> None:
    """vLLM's utilisations on one GPU, at any one moment, leave the margin."""
    plan = on(gpus, "sequences=8,context=4096")
    for group in plan.groups:
        for device in plan.devices:
            shares = [
                plan.tiers[name].gpu_memory_utilization or 0.0
                for name in group
                if device.device in plan.tiers[name].devices
            ]
            assert sum(shares) < 1


def test_tiers_that_take_turns_are_one_swap_group() -> None:
    """Trivet learns which models are never in memory together, and does not preload them."""
    plan = on("RTX3070")
    document = yaml.safe_load(config_text(plan))
    for tier in document["tiers"]:
        (deployment,) = tier["deployments"]
        assert deployment["swap_group"] == "memory"
        assert deployment["ollama"]["preload"] is False
    resident = yaml.safe_load(config_text(on("H100")))
    assert all("swap_group" not in tier["deployments"][0] for tier in resident["tiers"])


def test_vllm_engines_that_take_turns_can_sleep() -> None:
    """They sleep at a level that the host's memory allows; all at once, as containers, they cannot start."""
    texts, pins = ("sequences=8,context=4096",), ["heavy=made-32b", "standard=made-14b", "light=made-4b"]
    plan = on("RTXA6000", *texts, pins=pins)
    assert plan.mode == "swap"
    document = yaml.safe_load(config_text(plan))
    assert document["fleet"]["swap"]["sleep_level"] in (1, 2)
    for form in ("compose", "k8s"):
        with pytest.raises(ConfigError, match="take turns"):
            emit(plan, form)


def test_a_configuration_needs_two_tiers() -> None:
    """A plan with less is refused with what to do."""
    with pytest.raises(ConfigError, match="two"):
        config_text(on("cpu-2gb"))


def test_an_ordinary_ollama_is_enough_for_one_gpu() -> None:
    """On one GPU with one sequence nothing has to be set up but Ollama as it is installed."""
    plan = on("RTX3070")
    (server,) = ollama_servers(plan)
    assert server.parallel == 1
    assert preparations(plan)[-1].startswith("Ollama: as it is installed")


def test_ollama_servers_do_not_share_what_they_must_not() -> None:
    """Each server has one set of GPUs and one number of sequences, and a port of its own."""
    plan = on("2xRTX4090", "light:sequences=4")
    servers = ollama_servers(plan)
    assert len(servers) > 1
    assert len({server.port for server in servers}) == len(servers)
    for server in servers:
        for name in server.tiers:
            assert plan.tiers[name].devices == server.devices
            assert plan.tiers[name].sequences == server.parallel


@pytest.mark.parametrize("gpus", ["RTX4090", "2xRTX4090", "8xH100", "cpu-16gb"])
def test_the_compose_file_is_whole(gpus: str) -> None:
    """Every engine has a service with its GPUs by UUID, and Trivet's configuration knows each by its name."""
    plan = on(gpus)
    (compose,) = documents(plan, "compose")
    services = compose["services"]
    config = yaml.safe_load(compose["configs"]["trivet"]["content"].replace("$$", "$"))
    engines = set(services) - {"trivet"}
    assert set(services["trivet"]["depends_on"]) == engines
    assert (services["trivet"]["read_only"], services["trivet"]["cap_drop"]) == (True, ["ALL"])
    for tier in config["tiers"]:
        (deployment,) = tier["deployments"]
        assert "launch" not in deployment
        name = deployment["url"].removeprefix("http://").partition(":")[0]
        assert name in engines
        if plan.mode != "cpu":
            (reserved,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
            assert set(deployment["devices"]) <= set(reserved["device_ids"])
    for service in services.values():
        assert ":" in service["image"]
        assert not service["image"].endswith(":latest")
        assert service["healthcheck"]["test"][0] == "CMD"
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in compose["volumes"]


def test_engines_on_one_gpu_load_one_after_the_other() -> None:
    """vLLM measures its GPU while it loads: no other vLLM, and no Ollama, may load there then."""
    plan = on("2xH100")
    (compose,) = documents(plan, "compose")
    where = {name: set(tier.devices) for name, tier in plan.tiers.items()}
    on_vllm = [name for name, tier in plan.tiers.items() if tier.variant.engine == "vllm"]
    beside = set().union(*(where[name] for name in plan.tiers if name not in on_vllm))
    assert len(on_vllm) >= 2, "choose a machine on which two share a GPU"
    for place, name in enumerate(on_vllm):
        waits = compose["services"][f"vllm-{name}"].get("depends_on", {})
        expected = [other for other in on_vllm[:place] if where[other] & where[name]]
        assert waits == {f"vllm-{other}": {"condition": "service_healthy"} for other in expected}
        condition = compose["services"]["trivet"]["depends_on"][f"vllm-{name}"]["condition"]
        assert condition == ("service_healthy" if where[name] & beside else "service_started")


def test_amd_gpus_are_no_nvidia_containers() -> None:
    """Their containers need other images and devices, which are not written; configuration and units are."""
    plan = on("2xRX7900XTX")
    for form in ("compose", "k8s"):
        with pytest.raises(ConfigError, match="NVIDIA"):
            emit(plan, form)
    files = emit(plan, "systemd")
    assert "char-kfd" in files["systemd/system/trivet.service"]
    assert "ROCR_VISIBLE_DEVICES=PLAN-" in "".join(files.values())


def test_the_compose_files_images_are_those_of_deploy() -> None:
    """One version of Ollama in the whole repository."""
    assert OLLAMA_IMAGE in (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("gpus", ["2xRTX4090", "8xH100", "cpu-16gb"])
def test_the_kubernetes_objects_are_whole(gpus: str) -> None:
    """A Deployment and a Service for Trivet and each engine; GPUs as limits; claims and maps that exist."""
    plan = on(gpus)
    objects = documents(plan, "k8s")
    by_kind: dict[str, dict[str, Any]] = {}
    for one in objects:
        by_kind.setdefault(one["kind"], {})[one["metadata"]["name"]] = one
    assert set(by_kind["Deployment"]) == set(by_kind["Service"])
    config = yaml.safe_load(by_kind["ConfigMap"]["trivet-config"]["data"]["trivet.yaml"])
    for tier, name in zip(config["tiers"], plan.tiers, strict=True):
        (deployment,) = tier["deployments"]
        service, _, port = deployment["url"].removeprefix("http://").partition(":")
        assert by_kind["Service"][service]["spec"]["ports"][0]["port"] == int(port)
        (container,) = by_kind["Deployment"][service]["spec"]["template"]["spec"]["containers"]
        limits = container.get("resources", {}).get("limits", {})
        assert limits.get("nvidia.com/gpu", 0) == (0 if plan.mode == "cpu" else len(plan.tiers[name].devices))
    for one in by_kind["Deployment"].values():
        pod = one["spec"]["template"]["spec"]
        assert one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"]
        names = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= names
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in by_kind["PersistentVolumeClaim"]


def test_the_units_are_whole() -> None:
    """Trivet starts after its Ollama servers, which have their ports and variables."""
    plan = on("2xRTX4090")
    files = emit(plan, "systemd")
    assert files["trivet/trivet.yaml"] == config_text(plan)
    units = {name.rpartition("/")[2]: text for name, text in files.items() if name.endswith(".service")}
    for text in units.values():
        parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys are case-sensitive
        parser.read_string(text)
        assert parser.sections() == ["Unit", "Service", "Install"]
    servers = ollama_servers(plan)
    assert set(units) == {"trivet.service", *(f"trivet-{server.name}.service" for server in servers)}
    for server in servers:
        text = units[f"trivet-{server.name}.service"]
        assert f"OLLAMA_HOST=127.0.0.1:{server.port}" in text
        assert f"OLLAMA_NUM_PARALLEL={server.parallel}" in text
        assert f"trivet-{server.name}.service" in units["trivet.service"]
