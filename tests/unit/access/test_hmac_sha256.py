"""The HMAC of keys is the standard library's."""

import hmac

from hypothesis import given
from hypothesis import strategies as st

from trivet.access.hmac_sha256 import Hmac


@given(key=st.binary(max_size=200), messages=st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_same_as_the_standard_librarys(key: bytes, messages: list[bytes]) -> None:
    """Whatever the key and its length, and for each message anew."""
    keyed = Hmac(key)
    assert [keyed(message) for message in messages] == [
        hmac.digest(key, message, "sha256").hex() for message in messages
    ]
