"""The HTTP doors: OpenAI's wire format for inference, JSON for administration."""

from trivet.api.application import Doors, build_application

__all__ = ["Doors", "build_application"]
