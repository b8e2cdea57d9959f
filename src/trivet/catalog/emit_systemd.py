"""A plan as systemd units: Trivet, which starts vLLM itself, and one Ollama service for each server. Pure."""

from collections.abc import Sequence

from trivet.catalog.emit_config import config_text
from trivet.catalog.ollama_servers import OllamaServer, ollama_servers
from trivet.catalog.plan import Plan

Section = tuple[str, Sequence[tuple[str, str]]]


def systemd_files(plan: Plan) -> dict[str, str]:
    """Return file names under /etc and what they hold: the configuration and the units.

    Raises:
        ConfigError: the plan serves fewer tiers than a configuration needs.
    """
    servers = ollama_servers(plan)
    files = {
        "trivet/trivet.yaml": config_text(plan),
        "systemd/system/trivet.service": _trivet_unit(plan, servers),
    }
    for server in servers:
        files[f"systemd/system/trivet-{server.name}.service"] = _ollama_unit(server, plan)
    return files


def _trivet_unit(plan: Plan, servers: Sequence[OllamaServer]) -> str:
    engines = [f"trivet-{server.name}.service" for server in servers]
    amd = any(one.device.spec.vendor == "amd" for one in plan.devices)
    gpus = ("char-kfd rw", "char-drm rw") if amd else ("char-nvidia* rw",)
    devices = () if plan.mode == "cpu" else tuple(("DeviceAllow", name) for name in gpus)
    return _unit(
        "Trivet, with the engines of its plan",
        (
            ("After", " ".join(["network-online.target", *engines])),
            ("Wants", " ".join(["network-online.target", *engines])),
        ),
        (
            ("Type", "exec"),
            ("ExecStart", "/opt/trivet/bin/trivet serve --config /etc/trivet/trivet.yaml"),
            ("WorkingDirectory", "/etc/trivet"),
            ("Environment", "TRIVET_STORE__PATH=/var/lib/trivet/trivet.db"),
            ("Environment", "HOME=/var/lib/trivet"),
            ("EnvironmentFile", "-/etc/trivet/environment"),
            ("Restart", "on-failure"),
            ("RestartSec", "2"),
            # SIGTERM goes to Trivet alone, which drains and stops its engines; what is left is killed with
            # it.
            ("KillMode", "mixed"),
            ("TimeoutStopSec", "80"),
            ("DynamicUser", "yes"),
            ("StateDirectory", "trivet"),
            ("StateDirectoryMode", "0700"),
            ("UMask", "0077"),
            ("LimitNOFILE", "65536"),
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "read-only"),
            ("PrivateTmp", "yes"),
            ("DevicePolicy", "closed"),
            *devices,
        ),
    )


def _ollama_unit(server: OllamaServer, plan: Plan) -> str:
    environment = {"OLLAMA_HOST": f"127.0.0.1:{server.port}", **server.environment(plan)}
    return _unit(
        f"Ollama for Trivet: {', '.join(server.tiers)}",
        (("After", "network-online.target"), ("Wants", "network-online.target")),
        (
            ("Type", "exec"),
            ("ExecStart", "/usr/local/bin/ollama serve"),
            *(("Environment", f"{name}={value}") for name, value in environment.items()),
            # The models that an installed Ollama has already.
            ("User", "ollama"),
            ("Group", "ollama"),
            ("Restart", "on-failure"),
            ("RestartSec", "3"),
        ),
    )


def _unit(
    description: str, dependencies: Sequence[tuple[str, str]], service: Sequence[tuple[str, str]]
) -> str:
    sections: list[Section] = [
        ("Unit", [("Description", description), *dependencies]),
        ("Service", service),
        ("Install", [("WantedBy", "multi-user.target")]),
    ]
    parts = [
        "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in entries)]) for name, entries in sections
    ]
    return "\n\n".join(parts) + "\n"
