"""Reading http and https addresses: with a limit on size and time, and errors in one sentence."""

import contextlib
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeGuard
from urllib.parse import quote, urlsplit

LONGEST_SILENCE_SECONDS = 30.0
USER_AGENT = "deformable-detr-refine"


def is_url(source: object) -> TypeGuard[str]:
    """Whether this is an http or https URL, in a string.

    Example:
        >>> is_url("https://example.org/a.jpg"), is_url("http_photo.jpg"), is_url("file:///a.jpg")
        (True, False, False)
    """
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def escaped(url: str) -> str:
    """The URL with blanks and letters beyond ASCII escaped; what is escaped already stays.

    Example:
        >>> escaped("https://example.org/a b%20c.jpg")
        'https://example.org/a%20b%20c.jpg'
    """
    return quote(url, safe="%/:=&?~#+!$,;'@()*[]")


class Deadline:
    """A time at which connections are broken off, also one whose server sends a byte now and then, a head without end,
    or answer after answer.

    To be entered while they are used.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._begun = seconds, time.monotonic()
        self._sockets: list[socket.socket] = []
        self._lock, self._left = threading.Lock(), threading.Event()

    @property
    def left(self) -> float:
        """Seconds until then, 0 afterwards."""
        return max(self._begun + self.seconds - time.monotonic(), 0.0)

    def put_off(self, seconds: float) -> None:
        """Makes it so many seconds from the beginning, for what has come meanwhile."""
        self.seconds = max(self.seconds, seconds)

    def __enter__(self) -> "Deadline":
        threading.Thread(target=self._wait, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._break_off()  # what others still read
        self._sockets.clear()

    def watch(self, sock: socket.socket) -> None:
        """Breaks this one off too.

        Raises:
            TimeoutError: the time has come already.
        """
        with self._lock:
            if not self.left:
                raise TimeoutError
            self._sockets.append(sock)

    def connect(self, addresses: Iterable[Any], timeout: float = threading.TIMEOUT_MAX) -> socket.socket:
        """A watched socket to the first of `addresses` that can be reached, each within `timeout` seconds.

        Raises:
            OSError: why the last of them cannot.
        """
        failure = OSError("the host has no address")
        for family, kind, protocol, _, where in addresses:
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:  # a family that this system lacks
                failure = error
                continue
            try:
                sock.settimeout(min(timeout, self.left) or 0.001)
                self.watch(sock)
                sock.connect(where)
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise failure

    def secure(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
        """The TLS connection over a watched socket, watched in its place before its handshake.

        Raises:
            OSError: it fails, or the time came first.
        """
        secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        try:
            self.watch(secured)
            secured.do_handshake()
        except OSError:
            secured.close()
            raise
        return secured

    def addresses(self, host: str, port: int) -> list[Any]:
        """Of a host, as `socket.getaddrinfo` gives them; the system's look-up itself knows no limit.

        Raises:
            OSError: it is not known, or the time came first.
        """
        found: list[Any] = []

        def look() -> None:
            try:
                found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                found.append(error)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(min(self.left, threading.TIMEOUT_MAX))
        if not found:
            raise TimeoutError
        if isinstance(found[0], OSError | UnicodeError):
            raise found[0]
        return found[0]

    def _wait(self) -> None:
        while left := self.left:  # it may have been put off meanwhile
            if self._left.wait(min(left, threading.TIMEOUT_MAX)):
                return
        self._break_off()

    def _break_off(self) -> None:
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def open_url(
    url: str, deadline: Deadline, *, silence: float, headers: Mapping[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """The response of an address, to be read within the block.

    Args:
        url: an http or https URL; redirects are followed to such URLs only.
        deadline: for all of it, from the look-up of the name to the last byte, redirects included.
        silence: seconds without a byte that end it.
        headers: of the request, beside the usual ones.

    Raises:
        OSError: the address cannot be read, or the connection ended early, in the block too; where the server refused,
            its cause is the `urllib.error.HTTPError`.
        ValueError: it is no address.
    """
    opener = urllib.request.build_opener(_WebOnlyRedirects, _Plain(deadline), _Secured(deadline))
    try:
        address = escaped(url)
        _ = urlsplit(address).port  # looks at all of it
    except ValueError as error:
        raise ValueError(f"{url} is no address: {error}.") from error
    request = urllib.request.Request(address, headers={"User-Agent": USER_AGENT, **(headers or {})})
    try:
        with deadline, opener.open(request, timeout=silence) as response:
            yield response
            if not deadline.left:  # broken off, a body without a stated length looks whole
                raise TimeoutError
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} cannot be read: the server answers {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if not deadline.left:
            reason = f"not finished within {deadline.seconds:g} seconds"
        elif isinstance(reason, TimeoutError):
            reason = f"no answer for {silence:g} seconds"
        elif isinstance(reason, http.client.IncompleteRead):
            reason = "the connection ended early"
        elif isinstance(reason, http.client.HTTPException) and not isinstance(reason, http.client.InvalidURL | OSError):
            reason = "the server does not answer in HTTP"  # of which the error would repeat a line
        raise OSError(f"{url} cannot be read: {reason}.") from error


def stated_length(response: http.client.HTTPResponse) -> int | None:
    """How many bytes the server says will come, or None."""
    stated = response.headers.get("Content-Length") or ""
    return int(stated) if stated.isdecimal() else None


def copy_url(
    url: str,
    file: BinaryIO,
    *,
    timeout: float,
    max_bytes: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Writes what an address holds into an open file.

    Args:
        url: an http or https URL; redirects are followed to such URLs only.
        file: is written from where it stands.
        timeout: seconds for the whole download. A server that is silent for 30 seconds ends it too.
        max_bytes: length above which the download is broken off.
        progress: is called with (bytes that just came, length that the server states or None).

    Raises:
        OSError: the address cannot be read, or the connection ended early.
        ValueError: it is longer than `max_bytes`, or no address.
    """
    length = 0
    with open_url(url, Deadline(timeout), silence=min(timeout, LONGEST_SILENCE_SECONDS)) as response:
        expected = stated_length(response)
        # read1 returns what has arrived, so a server that drips bytes meets the deadline too.
        while part := response.read1(1 << 16):
            length += len(part)
            if max(length, expected or 0) > max_bytes:
                raise ValueError(f"{url} is longer than {max_bytes / 2**20:.0f} MiB: the download was broken off.")
            file.write(part)
            if progress is not None:
                progress(len(part), expected)
    if expected is not None and length < expected:
        raise OSError(f"{url} cannot be read: the connection ended after {length} of {expected} bytes.")


class _WebOnlyRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, request: urllib.request.Request, file: Any, code: int, message: str, headers: Any, url: str
    ) -> urllib.request.Request | None:
        if not is_url(url):
            raise OSError(f"it redirects to {urlsplit(url).scheme}, only http and https are read")
        return super().redirect_request(request, file, code, message, headers, url)


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Connection, request, deadline=self._deadline)  # pyright: ignore[reportArgumentType]


class _Secured(urllib.request.HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_SecuredConnection, request, deadline=self._deadline)  # pyright: ignore[reportArgumentType]


class _Connection(http.client.HTTPConnection):
    """Its socket is watched by a deadline from before it is connected."""

    def __init__(self, host: str, deadline: Deadline, **options: Any) -> None:
        super().__init__(host, **options)
        self.deadline = deadline
        self._create_connection = self._reach  # http.client calls it to connect, to a proxy too

    def _reach(self, address: tuple[str, int], timeout: float, source_address: Any = None) -> socket.socket:
        sock = self.deadline.connect(self.deadline.addresses(*address), timeout)
        sock.settimeout(timeout)
        return sock


class _SecuredConnection(_Connection):
    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        host = getattr(self, "_tunnel_host", None) or self.host
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        self.sock = self.deadline.secure(self.sock, context, host)
