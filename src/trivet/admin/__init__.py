"""The doors' use cases, each with its permission check."""

from trivet.admin.office import Office

__all__ = ["Office"]
