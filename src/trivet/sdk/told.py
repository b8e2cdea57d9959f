"""What a server told: plain JSON, but that a field which is missing is explained."""

from typing import Any

from trivet.domain.errors import ServerDiffers
from trivet.version import __version__


class Told(dict[str, Any]):
    """An object of an answer. Whoever reads a field that it lacks talks to a server of another version."""

    def __missing__(self, name: str) -> Any:
        """Say so.

        Raises:
            ServerDiffers: always; it is a KeyError, too.
        """
        raise differs(name)


def differs(name: str) -> ServerDiffers:
    """Return the error of an answer without a field, or a header, that every answer of this version has."""
    return ServerDiffers(
        f"The server's answer has no {name!r}: the server is of another version than this client, which is"
        f" {__version__}.",
        hint="Bring both to the same version, or use the `trivet` that is installed with the server;"
        " `--json` prints what the server tells, whatever that is.",
        details={"missing": name, "client_version": __version__},
    )
