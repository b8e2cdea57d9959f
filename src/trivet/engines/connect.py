"""Open the way to an engine: one shared HTTP session, one transport per deployment."""

import aiohttp

from trivet.domain.errors import ConfigError
from trivet.domain.tiers import Deployment
from trivet.engines.pool import EngineConnector
from trivet.engines.protocol import Transport
from trivet.engines.relay import Relay

READ_BUFFER_BYTES = 256 * 1024


def open_session() -> aiohttp.ClientSession:
    """Return a session for all relays and probes; the caller closes it. Must be called inside a running loop.

    It reads no proxy settings from the environment, keeps no cookies and never limits the number of
    connections: admission is the caller's.
    """
    return aiohttp.ClientSession(
        connector=EngineConnector(),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        # Each call sets its own limits; the default total of five minutes would cut long answers.
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=READ_BUFFER_BYTES,
        skip_auto_headers=("User-Agent",),
    )


def open_transport(
    deployment: Deployment, *, session: aiohttp.ClientSession, api_key: str | None
) -> Transport:
    """Return the deployment's transport, as `deployment.transport` says.

    Raises:
        ConfigError: the relay has no URL to go to.
    """
    if deployment.transport == "litellm":
        from trivet.engines.litellm import LiteLLMTransport

        return LiteLLMTransport(deployment, api_key=api_key)
    if deployment.url is None:
        raise ConfigError(
            f"Deployment {deployment.name!r} has no URL, which the relay needs.",
            hint="Set `url`, or `transport: litellm`.",
            param="url",
        )
    join_plain = deployment.engine == "llamacpp"
    return Relay(deployment.url, session=session, api_key=api_key, join_plain=join_plain)
