"""The files of deploy/ and the locks, checked where they cannot be run."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from trivet.config.environment import RESERVED
from trivet.config.load import load_settings
from trivet.config.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LOCKS = (ROOT / "requirements.lock", DEPLOY / "requirements.lock")
SEED_NAMES = {
    "MODEL_ROUTING_ENABLED",
    "MODEL_LIGHT",
    "MODEL_STANDARD",
    "MODEL_HEAVY",
    "TOKEN_BUDGET_DAILY",
    "TOKEN_BUDGET_MONTHLY",
    "OLLAMA_HOST",
}
INSTRUCTIONS = set(
    "FROM RUN COPY ENV WORKDIR USER VOLUME EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD".split()  # noqa: SIM905
)
DRAIN_S = Settings().server.drain_timeout_s


def pins(lock: Path) -> set[tuple[str, str]]:
    """Return name and version of every pin of a lock; a package may have one for each range of Pythons.

    Markers are left out: what the tests' tools need as well is wanted under wider ones.
    """
    text = lock.read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+).*\\$", text, re.MULTILINE))


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments, lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def arguments(name: str) -> list[str]:
    """Return the arguments of every instruction of this name."""
    return [rest for instruction, rest in instructions() if instruction == name]


def unit() -> configparser.ConfigParser:
    """Return the systemd unit's sections; of repeated keys the last."""
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",)
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys are case-sensitive
    parser.read_string((DEPLOY / "trivet.service").read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Return the compose file's document, merge keys resolved."""
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def test_the_images_lock_is_a_part_of_the_whole_lock() -> None:
    """What the image installs is what the tests ran with, version by version, without the tests' tools."""
    whole, image = (pins(lock) for lock in LOCKS)
    assert image <= whole
    names = {name for name, _ in image}
    assert {"litellm", "fastapi", "xllamacpp", "gguf", "hatchling"} <= names
    assert not {"pytest", "mypy", "ruff", "hypothesis", "coverage"} & names


@pytest.mark.parametrize("lock", LOCKS, ids=["whole", "image"])
def test_a_lock_holds_hashes_and_no_address(lock: Path) -> None:
    """Every pin has a hash, nothing says where it came from, and the two malicious releases are absent."""
    text = lock.read_text(encoding="utf-8")
    requirements = [block for block in re.split(r"\n(?=\S)", text) if not block.startswith("#")]
    assert [block.split()[0] for block in requirements if "--hash=sha256:" not in block] == []
    assert re.findall(r"\S*(?:://|--index-url|--find-links|--extra-index-url)\S*", text) == []
    assert not {("litellm", "1.82.7"), ("litellm", "1.82.8")} & pins(lock)
    assert "litellm" in {name for name, _ in pins(lock)}


def test_the_lock_script_compiles_both_locks() -> None:
    """`scripts/lock` is executable, parses, and writes exactly the locks that are checked here."""
    script = ROOT / "scripts" / "lock"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o111
    outputs = re.findall(r"-o (\S+)", script.read_text(encoding="utf-8"))
    assert [ROOT / output for output in outputs] == list(LOCKS)


def test_the_dockerfile_uses_known_instructions_and_a_pinned_base() -> None:
    """Every line parses, each base names version and distribution, and nothing is fetched by ADD."""
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    assert {base.split()[0] for base in arguments("FROM")} == {"python:3.11-slim-bookworm"}


def test_the_image_installs_from_its_lock_with_hashes() -> None:
    """Dependencies come from deploy/requirements.lock, hashes required; Trivet itself brings none."""
    installs = [command for command in arguments("RUN") if "pip install" in command]
    assert ["--require-hashes" in command for command in installs] == [True, False]
    assert all("--no-deps" in command for command in installs)
    assert "deploy/requirements.lock ./" in arguments("COPY")


def test_what_the_dockerfile_copies_exists_and_reaches_the_builder() -> None:
    """Each source of a COPY is in the repository and let through by the ignore file."""
    sources = [
        source for rest in arguments("COPY") if not rest.startswith("--from") for source in rest.split()[:-1]
    ]
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if f"!{source}" not in ignore] == []


def test_the_image_runs_as_an_ordinary_user() -> None:
    """The user is made with a fixed id and stays in force until the command."""
    names = [name for name, _ in instructions()]
    assert arguments("USER") == ["trivet"]
    assert any("useradd --system --uid 10001" in command for command in arguments("RUN"))
    assert "RUN" not in names[names.index("USER") :]


def test_the_image_is_asked_for_its_health() -> None:
    """The health check is a program of its own image that asks /healthz."""
    (check,) = arguments("HEALTHCHECK")
    command = yaml.safe_load(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    assert "/healthz" in command[2]


def test_the_images_environment_is_valid() -> None:
    """The image listens on every address, keeps its store in the volume, and each of its settings exists."""
    environ = dict(pair.split("=", 1) for pair in shlex.split(arguments("ENV")[0]))
    settings = load_settings(
        environ={k: v for k, v in environ.items() if k.startswith("TRIVET_")}, directory=DEPLOY
    )
    assert settings.settings.server.host == "0.0.0.0"
    assert [str(settings.settings.store.path.parent)] == yaml.safe_load(arguments("VOLUME")[0])
    assert arguments("EXPOSE") == [str(settings.settings.server.port)]


@pytest.mark.parametrize(
    ("profile", "expected"), [("cpu", {"ollama", "trivet"}), ("nvidia", {"ollama-nvidia", "trivet-nvidia"})]
)
def test_each_profile_is_an_ollama_and_a_trivet(
    compose: dict[str, Any], profile: str, expected: set[str]
) -> None:
    """A profile starts one Ollama and one Trivet that waits for it and knows its address."""
    services = {name: s for name, s in compose["services"].items() if s["profiles"] == [profile]}
    assert services.keys() == expected
    ollama, trivet = sorted(services)
    assert services[trivet]["depends_on"] == {ollama: {"condition": "service_healthy"}}
    assert services[trivet]["environment"]["OLLAMA_HOST"] == f"http://{ollama}:11434"


def test_every_service_belongs_to_a_profile(compose: dict[str, Any]) -> None:
    """Nothing starts without a choice between CPU and GPU."""
    assert {tuple(service["profiles"]) for service in compose["services"].values()} == {("cpu",), ("nvidia",)}


def test_the_gpus_go_to_the_nvidia_profile_alone(compose: dict[str, Any]) -> None:
    """Both of its services see the GPUs: Ollama computes, Trivet reads their memory."""
    with_gpus = {name for name, service in compose["services"].items() if "deploy" in service}
    assert with_gpus == {"ollama-nvidia", "trivet-nvidia"}
    for name in with_gpus:
        (device,) = compose["services"][name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["count"], "gpu" in device["capabilities"]) == ("nvidia", "all", True)


def test_every_service_has_a_health_check_and_a_named_volume(compose: dict[str, Any]) -> None:
    """Health is asked and state outlives the containers, in volumes that are declared."""
    for service in compose["services"].values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= compose["volumes"].keys()
        assert ":" in service["image"]
        assert not service["image"].endswith(":latest")


def test_the_containers_of_trivet_are_locked_down(compose: dict[str, Any]) -> None:
    """Read-only, without capabilities, published on loopback, and given longer to stop than it drains."""
    for name in ("trivet", "trivet-nvidia"):
        service = compose["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert float(service["stop_grace_period"].removesuffix("s")) > DRAIN_S
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_compose_file_holds_no_secret_and_no_unknown_name(compose: dict[str, Any]) -> None:
    """Only the names of the guide are set, none of which is a secret, and none comes from a file."""
    names = {name for service in compose["services"].values() for name in service.get("environment", {})}
    assert names <= SEED_NAMES
    assert not {"secrets", "configs"} & compose.keys()
    assert [name for name, service in compose["services"].items() if "env_file" in service] == []
    # A TRIVET_ name that compose reads from the operator's shell would be refused as a setting there.
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(TRIVET_\w+)", text)) <= RESERVED


@pytest.mark.parametrize("profile", ["cpu", "nvidia"])
def test_the_environment_of_a_profile_loads(compose: dict[str, Any], profile: str) -> None:
    """With its defaults, the environment that compose gives is a valid configuration with three models."""
    (service,) = [
        s for s in compose["services"].values() if s["profiles"] == [profile] and "environment" in s
    ]
    environ = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in service["environment"].items()
    }
    settings = load_settings(environ=environ, directory=DEPLOY).settings
    assert len({tier.deployments[0].model for tier in settings.tiers}) == 3


def test_the_unit_restarts_on_failure_and_stops_with_patience() -> None:
    """systemd restarts a crash, and waits longer for an orderly end than Trivet drains."""
    service = unit()["Service"]
    assert service["Restart"] == "on-failure"
    assert float(service["TimeoutStopSec"]) > DRAIN_S
    assert service["ExecStart"].endswith("/trivet serve")


def test_the_unit_is_hardened() -> None:
    """It runs as a throw-away user without privileges, sees a read-only system and keeps its own state."""
    service = unit()["Service"]
    expected = {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "ProtectKernelTunables": "yes",
        "RestrictNamespaces": "yes",
        "SystemCallFilter": "@system-service",
        "DevicePolicy": "closed",
        "CapabilityBoundingSet": "",
        "StateDirectory": "trivet",
    }
    assert {key: service[key] for key in expected} == expected


def test_the_units_settings_exist() -> None:
    """Each variable of the unit, also the commented one, is a setting."""
    text = (DEPLOY / "trivet.service").read_text(encoding="utf-8")
    variables = dict(re.findall(r"^#?Environment=(TRIVET_\w+)=(\S+)$", text, re.MULTILINE))
    variables["TRIVET_FLEET__VLLM_API_KEY"] = "given"
    settings = load_settings(environ=variables, directory=DEPLOY).settings
    assert str(settings.store.path) == "/var/lib/trivet/trivet.db"


def test_the_unit_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    """Every line is a known section, key and value; where systemd is installed it says so itself."""
    parsed = unit()
    assert parsed.sections() == ["Unit", "Service", "Install"]
    assert parsed["Install"]["WantedBy"] == "multi-user.target"
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        return
    text = (DEPLOY / "trivet.service").read_text(encoding="utf-8")
    # systemd looks whether the program exists, which it does only where Trivet is installed.
    (tmp_path / "trivet.service").write_text(re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", text))
    done = subprocess.run(
        [verifier, "verify", str(tmp_path / "trivet.service")], capture_output=True, text=True
    )
    assert [line for line in done.stderr.splitlines() if "trivet.service" in line] == []
