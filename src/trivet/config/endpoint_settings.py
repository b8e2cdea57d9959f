"""One of several servers of a deployment."""

from trivet.config.section import PositiveInt, Section


class EndpointSettings(Section):
    """One of several servers of the same model."""

    url: str
    devices: tuple[str, ...] | None = None
    """By default those of the deployment."""
    slots: PositiveInt | None = None
    """By default those of the deployment."""
