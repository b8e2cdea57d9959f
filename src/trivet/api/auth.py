"""Who is calling: the API key, and for whom an admin acts."""

import hmac
from collections.abc import Mapping
from dataclasses import replace

from trivet.access import Keyring
from trivet.domain.errors import PermissionDenied
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope, parse_scope

OWNER_SCOPE = Scope("default")
OWNER_KEY_ID = "owner"


class Doorkeeper:
    """Turns request headers into a Principal.

    The owner token belongs to the operating-system user who runs Trivet: it is made anew at each start
    and lies beside the store, readable by that user only.
    """

    def __init__(self, keyring: Keyring, owner_token: str) -> None:
        self._keyring = keyring
        self._owner_token = owner_token.encode()
        self.owner = Principal(key_id=OWNER_KEY_ID, scope=OWNER_SCOPE, role="admin")

    def principal(self, headers: Mapping[str, str]) -> Principal:
        """Return the caller.

        `Authorization: Bearer KEY` or `x-api-key: KEY`. An admin may act for any scope by naming it in
        `x-trivet-scope`; from others that header is refused, never trusted.

        Raises:
            KeyMissing, KeyInvalid, PermissionDenied, RequestMalformed
        """
        key = _key_text(headers)
        if key is not None and hmac.compare_digest(key.encode("utf-8", "replace"), self._owner_token):
            caller = self.owner
        else:
            caller = self._keyring.authenticate(key)
        wanted = headers.get("x-trivet-scope")
        if wanted is None or wanted == caller.scope:
            return caller
        if not caller.is_admin:
            raise PermissionDenied(
                "This key cannot act for another scope.",
                hint="Leave x-trivet-scope out, or use an admin key.",
            )
        return replace(caller, scope=parse_scope(wanted))


def _key_text(headers: Mapping[str, str]) -> str | None:
    authorization = headers.get("authorization")
    if authorization is not None:
        kind, _, key = authorization.partition(" ")
        return key.strip() if kind.lower() == "bearer" and key.strip() else None
    return headers.get("x-api-key")
