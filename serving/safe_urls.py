"""URLs that come with requests: fetched within limits, and only from public addresses.

Who sends a URL makes the server open a connection from inside its network. So a name is resolved once, every address it
has must be public, and the connection goes to the very address that was checked, whatever the name says a moment later.
"""

import contextlib
import ipaddress
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import SplitResult, urljoin, urlsplit

from deformable_detr_refine.modeling.url_io import USER_AGENT, Deadline, escaped

from .limits import Limits

MOST_REDIRECTS = 5
AT_A_TIME = 8
_PART = 1 << 16
# Taken for public by some releases of Python: Azure's hosts answer to the machines on them at the first, Oracle's
# metadata service at one of the second, and the third leads to IPv4 addresses of the network's own.
_NOT_PUBLIC = [ipaddress.ip_network(name) for name in ("168.63.129.16/32", "192.0.0.0/24", "64:ff9b:1::/48")]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REDIRECTS = {301, 302, 303, 307, 308}


class UrlError(ValueError):
    """A URL is refused or brings nothing; the text is one sentence that names the host only."""


def fetch(url: str, limits: Limits) -> bytes:
    """What one URL brings.

    Raises:
        UrlError: the URL is not http or https, carries credentials, leads to an address that is not public, or brings
            nothing within the limits. Redirects are held to the same.
    """
    (result,) = fetch_all([url], limits)
    if isinstance(result, UrlError):
        raise result
    return result


def fetch_all(urls: Sequence[str], limits: Limits) -> list[bytes | UrlError]:
    """What several URLs bring, eight at a time, within the limits of one request; an error in its place."""
    if not urls:
        return []
    budget = _Budget(limits.request_bytes)
    pool = ThreadPoolExecutor(min(AT_A_TIME, len(urls)), "url")
    try:
        with Deadline(limits.url_seconds) as deadline:
            futures = [pool.submit(_fetch, url, limits, deadline, budget) for url in urls]
            wait(futures, timeout=deadline.left)
        return [
            future.result() if future.done() else _late(url, limits) for url, future in zip(urls, futures, strict=True)
        ]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet: not to this machine, a network of its owner, or nobody.

    Example:
        >>> [is_public(address) for address in ("8.8.8.8", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1")]
        [True, False, False, False]
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped or ip.sixtofour
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    special = ip.is_multicast or ip.is_reserved or ip.is_loopback or ip.is_link_local or ip.is_unspecified
    return ip.is_global and not special and not any(ip in network for network in _NOT_PUBLIC)


def _fetch(url: str, limits: Limits, deadline: Deadline, budget: "_Budget") -> bytes | UrlError:
    try:
        for _ in range(MOST_REDIRECTS + 1):
            answer = _get(_checked(url), limits, deadline, budget)
            if isinstance(answer, bytes):
                # Broken off at the deadline, a body without a stated length looks whole.
                return answer if deadline.left else _late(url, limits)
            url = urljoin(url, answer)
        return UrlError(f"{_where(url)} cannot be fetched: it redirects more than {MOST_REDIRECTS} times.")
    except (OSError, HTTPException, ValueError) as error:
        if not deadline.left:
            return _late(url, limits)
        if isinstance(error, UrlError):
            return error
        # The system's words would tell of the network that the server stands in.
        invalid = isinstance(error, ssl.SSLCertVerificationError)
        reason = "its certificate is not valid" if invalid else "the connection failed"
        return UrlError(f"{_where(url)} cannot be fetched: {reason}.")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UrlError(f"{_where(url)} cannot be fetched: the URL is malformed.") from error
    if parts.scheme not in ("http", "https"):
        raise UrlError(f"{_where(url)} cannot be fetched: only http and https URLs are.")
    if "@" in parts.netloc:
        raise UrlError(f"{_where(url)} cannot be fetched: the URL carries credentials.")
    if not host:
        raise UrlError(f"{_where(url)} cannot be fetched: the URL has no host.")
    return parts


def _get(parts: SplitResult, limits: Limits, deadline: Deadline, budget: "_Budget") -> bytes | str:
    """The body, or where a redirect leads."""
    where = _where(parts.geturl())
    connection = _Connection(parts, _addresses(parts, limits, deadline), deadline)
    with contextlib.closing(connection):
        target = escaped((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        connection.request("GET", target, headers={"User-Agent": USER_AGENT, "Accept": "image/*"})
        response = connection.getresponse()
        if response.status in _REDIRECTS and (to := response.headers.get("Location")):
            return to
        if response.status != 200:
            raise UrlError(f"{where} cannot be fetched: the server answers {response.status}.")
        return _body(response, where, limits, budget)


def _body(response: HTTPResponse, where: str, limits: Limits, budget: "_Budget") -> bytes:
    if (response.length or 0) > limits.url_bytes:
        raise UrlError(f"{where} cannot be fetched: it is longer than {_size(limits.url_bytes)}.")
    body = bytearray()
    while part := response.read1(_PART):
        body += part
        if len(body) > limits.url_bytes:
            raise UrlError(f"{where} cannot be fetched: it is longer than {_size(limits.url_bytes)}.")
        if not budget.take(len(part)):
            raise UrlError(f"{where} is not fetched: the request's URLs bring more than {_size(limits.request_bytes)}.")
    if response.length:
        raise UrlError(f"{where} cannot be fetched: the connection ended early.")
    return bytes(body)


def _addresses(parts: SplitResult, limits: Limits, deadline: Deadline) -> list[tuple]:
    """Every address that the host has, as `socket.getaddrinfo` gives them, all of them allowed."""
    port = parts.port if parts.port is not None else {"http": 80, "https": 443}[parts.scheme]
    try:
        # As the system reads names: 127.1, 0x7f000001 and 2130706433 come out as what they are.
        addresses = deadline.addresses(parts.hostname or "", port)
    except (OSError, UnicodeError) as error:
        raise UrlError(f"{_where(parts.geturl())} cannot be fetched: the host is not known.") from error
    if not limits.private_urls and not all(is_public(address[0]) for *_, address in addresses):
        raise UrlError(f"{_where(parts.geturl())} is not fetched: the host's address is not public.")
    return addresses


class _Connection(HTTPConnection):
    """Goes to addresses that were checked; the name serves the Host header and the certificate only."""

    def __init__(self, parts: SplitResult, addresses: list[tuple], deadline: Deadline):
        # The port in `super()` decides whether the Host header names one.
        self.default_port = {"http": 80, "https": 443}[parts.scheme]
        super().__init__(parts.hostname or "", parts.port if parts.port is not None else self.default_port)
        self._tls, self._addresses, self._deadline = parts.scheme == "https", addresses, deadline

    def connect(self) -> None:
        self.sock = self._deadline.connect(self._addresses)
        if self._tls:
            self.sock = self._deadline.secure(self.sock, _tls_context(), self.host)


class _Budget:
    """Bytes that the URLs of one request may bring together."""

    def __init__(self, size: int):
        self._left, self._lock = size, threading.Lock()

    def take(self, size: int) -> bool:
        with self._lock:
            self._left -= size
            return self._left >= 0


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _late(url: str, limits: Limits) -> UrlError:
    return UrlError(f"{_where(url)} cannot be fetched: not finished within {limits.url_seconds:g} seconds.")


def _where(url: str) -> str:
    """The scheme and the host, without what may be secret in a URL."""
    try:
        parts = urlsplit(url)
        # Half of a surrogate pair, which JSON can carry, is nothing that a response could repeat.
        host = (parts.hostname or "")[:100].encode("utf-8", "replace").decode()
    except ValueError:
        return "A URL"
    return f"{parts.scheme}://{host}" if host and parts.scheme in ("http", "https") else "A URL"


def _size(length: int) -> str:
    return f"{length / 2**20:.3g} MiB"


__all__ = ["UrlError", "fetch", "fetch_all", "is_public"]
