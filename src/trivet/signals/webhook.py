"""One POST to the operator's webhook, with the fences that a URL from outside needs.

The scheme is http or https; no redirect is followed and no proxy is read from the environment; the address
is checked where it is connected to, so that a name cannot be looked up twice to different ends. Link-local
addresses, where clouds keep their metadata, are never connected to.
"""

import ipaddress
import socket
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from trivet.domain.clock import Clock

_ANSWER_LIMIT_BYTES = 4096
_METADATA = ipaddress.ip_address("fd00:ec2::254")
"""Where EC2 keeps its metadata in IPv6, outside the link-local range."""


class NotDelivered(Exception):
    """The receiver did not take it. `retry_after_s` is what it asked for, if it did."""

    def __init__(self, why: str, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class Webhook:
    """The way to one URL. To be opened inside a running loop."""

    def __init__(self, url: str, *, timeout_s: float, clock: Clock) -> None:
        self.url = url
        self._clock = clock
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=4, resolver=CheckedResolver(), use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )

    async def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send; return once the receiver has answered with 2xx.

        Raises:
            NotDelivered: anything else; the message holds no part of the URL, which may be a secret.
        """
        host = urlsplit(self.url).hostname or ""
        try:
            if _is_forbidden(host):
                raise NotDelivered("The webhook's address is link-local, which is never connected to.")
            async with self._session.post(
                self.url, data=body, headers=dict(headers), allow_redirects=False
            ) as answer:
                await answer.content.read(_ANSWER_LIMIT_BYTES)
                if not 200 <= answer.status < 300:
                    raise NotDelivered(f"HTTP {answer.status}.", self._retry_after_s(answer))
        except TimeoutError:
            raise NotDelivered("The receiver did not answer in time.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotDelivered(f"The receiver cannot be reached ({type(error).__name__}).") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    def _retry_after_s(self, answer: aiohttp.ClientResponse) -> float | None:
        text = answer.headers.get("retry-after", "").strip()
        if text.isdecimal():
            return float(text[:9])
        try:
            wanted = parsedate_to_datetime(text)
            return max(0.0, (wanted - self._clock.now()).total_seconds())
        except (TypeError, ValueError):
            return None


class CheckedResolver(AbstractResolver):
    """Looks names up, and leaves out addresses that must not be connected to."""

    def __init__(self) -> None:
        self._inner: AbstractResolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name that may be used."""
        found = await self._inner.resolve(host, port, family)
        allowed = [result for result in found if not _is_forbidden(result["host"])]
        if not allowed:
            raise OSError("the name stands for link-local addresses only")
        return allowed

    async def close(self) -> None:
        """Close what is below."""
        await self._inner.close()


def _is_forbidden(host: str) -> bool:
    try:
        address: Any = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    return bool(
        address.is_link_local or address.is_multicast or address.is_unspecified or address == _METADATA
    )
