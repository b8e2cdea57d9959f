"""Opening transports."""

import aiohttp
import pytest

from tests.contract.calls import deployment_of
from trivet.domain.errors import ConfigError
from trivet.engines.connect import open_transport
from trivet.engines.relay import Relay


async def test_relay(session: aiohttp.ClientSession) -> None:
    """A deployment with transport `relay` gets one."""
    transport = open_transport(deployment_of("http://127.0.0.1:9", "m"), session=session, api_key=None)
    assert isinstance(transport, Relay)
    await transport.aclose()
    assert not session.closed


async def test_relay_without_url(session: aiohttp.ClientSession) -> None:
    """A relay needs a URL, and the error says which setting."""
    with pytest.raises(ConfigError) as caught:
        open_transport(deployment_of(None, "m"), session=session, api_key=None)
    assert caught.value.param == "url"


async def test_session_keeps_nothing(session: aiohttp.ClientSession) -> None:
    """The shared session has no proxy settings, no cookies, no limit on connections."""
    assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
    assert not session.trust_env
    assert session.connector is not None
    assert session.connector.limit == 0
