"""A plan written out for whoever runs it: Trivet, Docker Compose, Kubernetes, systemd. Pure."""

from typing import Literal

from trivet.catalog.emit_config import config_text
from trivet.catalog.emit_containers import compose_text, k8s_text
from trivet.catalog.emit_systemd import systemd_files
from trivet.catalog.plan import Plan

EmitFormat = Literal["config", "compose", "k8s", "systemd"]


def emit(plan: Plan, form: EmitFormat) -> dict[str, str]:
    """Return the files that a plan amounts to: their names and what they hold.

    Raises:
        ConfigError: the plan cannot be written in this form; says why and what to do.
    """
    if form == "config":
        return {"trivet.yaml": config_text(plan)}
    if form == "compose":
        return {"compose.yaml": compose_text(plan)}
    if form == "k8s":
        return {"trivet-k8s.yaml": k8s_text(plan)}
    return systemd_files(plan)
