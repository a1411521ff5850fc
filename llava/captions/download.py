"""Downloads from anywhere, safely: every URL ends in bytes or in a named problem, and no address is trusted.

Loopback, private, link-local and other addresses that are not public are refused unless their host is allowed. The
check is made on the addresses that the connection then uses, at every redirect, so a name that resolves to something
else a moment later gains nothing. Time, size, redirects and connections are bounded; what can heal (refused or reset
connections, 429, 5xx, an answer cut short) is tried again with back-off, and Retry-After is honoured.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from llava.captions.corpus import is_web_url
from llava.captions.pictures import Problem

CHUNK = 64 * 1024
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})
HEALING = frozenset({429, 500, 502, 503, 504})
HEADERS = {"User-Agent": "llava-pipelines (image research)", "Accept": "image/*", "Accept-Encoding": "identity"}
NAT64 = ipaddress.ip_network("64:ff9b::/96")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """retries: further tries after the first. connections: at once, in all and per host."""

    max_bytes: int = 20_000_000
    timeout_s: float = 20.0
    retries: int = 2
    connections: int = 64
    connections_per_host: int = 8
    max_redirects: int = 5
    allow_private_hosts: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """What a URL gave: ``body``, or the ``problem``. status: the last HTTP status, None when no answer came."""

    body: bytes | None = None
    problem: Problem | None = None
    status: int | None = None


class _Refused(Exception):
    """A host that has no public address."""


class _Retry(Exception):
    """A failure that may heal. wait_s: what the server asked for."""

    def __init__(self, download: Download, wait_s: float = 0.0) -> None:
        self.download = download
        self.wait_s = wait_s


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; IPv4 within IPv6 is looked at as IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class PublicResolver(AbstractResolver):
    """Resolves names and leaves out what is not public, but for the hosts that are allowed."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(self, host: str, port: int = 0,
                      family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        usable = [a for a in found if host in self._allowed or is_public(a["host"])]
        if found and not usable:
            raise _Refused(host)
        return usable

    async def close(self) -> None:
        await self._inner.close()


async def download_all(urls: Sequence[str], limits: Limits,
                       use: Callable[[str, Download], Awaitable[T]]) -> dict[str, T]:
    """What ``use`` makes of each distinct URL's download. Bodies are handed over one by one, not collected."""
    connector = aiohttp.TCPConnector(limit=limits.connections, limit_per_host=limits.connections_per_host,
                                     resolver=PublicResolver(limits.allow_private_hosts))
    slots = asyncio.Semaphore(limits.connections)
    done: dict[str, T] = {}
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS, auto_decompress=False,
                                     cookie_jar=aiohttp.DummyCookieJar()) as session:
        async def one(url: str) -> None:
            async with slots:
                done[url] = await use(url, await download(session, url, limits))

        async with asyncio.TaskGroup() as group:
            for url in dict.fromkeys(urls):
                group.create_task(one(url))
    return done


async def download(session: aiohttp.ClientSession, url: str, limits: Limits) -> Download:
    """One URL, with retries."""
    wait_s = FIRST_WAIT_S
    for attempt in range(limits.retries + 1):
        try:
            return await _follow(session, url, limits)
        except _Retry as failure:
            if attempt == limits.retries:
                return failure.download
            await asyncio.sleep(min(LONGEST_WAIT_S, max(wait_s, failure.wait_s)))
            wait_s *= 2
    raise AssertionError("the last attempt returns")


async def _follow(session: aiohttp.ClientSession, url: str, limits: Limits) -> Download:
    """One attempt, through redirects. Raises _Retry for what may heal."""
    status: int | None = None
    try:
        async with asyncio.timeout(limits.timeout_s):
            for _ in range(limits.max_redirects + 1):
                if not is_web_url(url):
                    return Download(problem=Problem.BAD_REDIRECT, status=status)
                if not _host_allowed(url, limits):
                    return Download(problem=Problem.FORBIDDEN_ADDRESS, status=status)
                async with session.get(URL(url, encoded=True) if url.isascii() else url,
                                       allow_redirects=False, timeout=aiohttp.ClientTimeout(total=None)) as response:
                    status = response.status
                    if status in REDIRECTS and "Location" in response.headers:
                        url = urljoin(url, response.headers["Location"])
                        continue
                    return await _body(response, limits)
            return Download(problem=Problem.BAD_REDIRECT, status=status)
    except _Refused:
        return Download(problem=Problem.FORBIDDEN_ADDRESS, status=status)
    except aiohttp.InvalidURL:
        return Download(problem=Problem.BAD_URL, status=status)
    except aiohttp.ClientConnectorDNSError as error:
        failed = Download(problem=Problem.UNKNOWN_HOST, status=status)
        if getattr(error.os_error, "errno", None) == socket.EAI_AGAIN:
            raise _Retry(failed) from None
        return failed
    except TimeoutError:
        raise _Retry(Download(problem=Problem.TIMEOUT, status=status)) from None
    except aiohttp.ClientPayloadError:
        raise _Retry(Download(problem=Problem.TRUNCATED, status=status)) from None
    except (aiohttp.ClientError, OSError, ValueError):
        raise _Retry(Download(problem=Problem.UNREACHABLE, status=status)) from None


async def _body(response: aiohttp.ClientResponse, limits: Limits) -> Download:
    status = response.status
    if status in HEALING:
        raise _Retry(Download(problem=Problem.SERVER_ERROR, status=status), _retry_after(response.headers))
    if status != 200:
        return Download(problem=Problem.HTTP_ERROR, status=status)
    if (response.content_length or 0) > limits.max_bytes:
        return Download(problem=Problem.TOO_BIG, status=status)
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        body += chunk
        if len(body) > limits.max_bytes:
            return Download(problem=Problem.TOO_BIG, status=status)
    return Download(body=bytes(body), status=status)


def _host_allowed(url: str, limits: Limits) -> bool:
    """Addresses written as numbers never reach the resolver, so they are judged here."""
    host = urlsplit(url).hostname or ""
    if host in limits.allow_private_hosts:
        return True
    try:
        return is_public(host)
    except ValueError:
        return True  # a name: its addresses are judged when it is resolved


def _retry_after(headers: Any) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0
