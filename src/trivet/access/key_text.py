"""The text of an API key: `tvt_<id>_<secret><checksum>`.

The id (8 hex digits) is public and finds the record; the secret is 32 random bytes in base64url; the
checksum (CRC-32 of all before it, six digits of base 62) tells a mistyped key from an unknown one, and
lets scanners recognise a leaked one.
"""

import base64
import re
import secrets
import string
import zlib

_FORM = re.compile(r"(tvt_([0-9a-f]{8})_[A-Za-z0-9_-]{43})([0-9A-Za-z]{6})", re.ASCII)
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_BYTES = 32


def new_key(key_id: str) -> str:
    """Return the text of a new key with a fresh secret."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).rstrip(b"=").decode()
    stem = f"tvt_{key_id}_{secret}"
    return stem + _checksum(stem)


def new_key_id() -> str:
    """Return eight random hex digits."""
    return secrets.token_hex(4)


def claimed_id(text: str) -> str | None:
    """Return the id in what has a key's form, whatever its checksum; None if `text` has not."""
    match = _FORM.fullmatch(text)
    return None if match is None else match[2]


def key_id_of(text: str) -> str | None:
    """Return the id of a well-formed key; None if `text` is none or its checksum is wrong."""
    match = _FORM.fullmatch(text)
    if match is None or match[3] != _checksum(match[1]):
        return None
    return match[2]


def _checksum(stem: str) -> str:
    number = zlib.crc32(stem.encode())
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits
