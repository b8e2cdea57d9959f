"""Assembly: builds, opens and closes the parts; contains no request logic."""

from trivet.app.assembly import OpenTrivet, open_trivet
from trivet.app.server import serve

__all__ = ["OpenTrivet", "open_trivet", "serve"]
