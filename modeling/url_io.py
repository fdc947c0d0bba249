"""Reading http and https addresses: with a limit on size and time, and errors in one sentence."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, TypeGuard
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


@contextmanager
def open_url(
    url: str, *, silence: float, headers: Mapping[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """The response of an address, to be read within the block.

    Args:
        url: an http or https URL; redirects are followed to such URLs only.
        silence: seconds without a byte that end it.
        headers: of the request, beside the usual ones.

    Raises:
        OSError: the address cannot be read, or the connection ended early, in the block too; where the server refused,
            its cause is the `urllib.error.HTTPError`.
        ValueError: it is no address.
    """
    opener = urllib.request.build_opener(_WebOnlyRedirects)
    try:
        address = escaped(url)
        _ = urlsplit(address).port  # looks at all of it
    except ValueError as error:
        raise ValueError(f"{url} is no address: {error}.") from error
    request = urllib.request.Request(address, headers={"User-Agent": USER_AGENT, **(headers or {})})
    try:
        with opener.open(request, timeout=silence) as response:
            yield response
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} cannot be read: the server answers {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"no answer for {silence:g} seconds"
        elif isinstance(reason, http.client.IncompleteRead):
            reason = "the connection ended early"
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
    deadline = time.monotonic() + timeout
    length = 0
    with open_url(url, silence=min(timeout, LONGEST_SILENCE_SECONDS)) as response:
        expected = stated_length(response)
        # read1 returns what has arrived, so a server that drips bytes meets the deadline too.
        while part := response.read1(1 << 16):
            length += len(part)
            if max(length, expected or 0) > max_bytes:
                raise ValueError(f"{url} is longer than {max_bytes / 2**20:.0f} MiB: the download was broken off.")
            if time.monotonic() > deadline:
                raise OSError(f"not finished within {timeout:g} seconds")
            file.write(part)
            if progress is not None:
                progress(len(part), expected)
    if expected is not None and length < expected:
        raise OSError(f"{url} cannot be read: the connection ended after {length} of {expected} bytes.")


class _WebOnlyRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, url):
        if not is_url(url):
            raise OSError(f"it redirects to {urlsplit(url).scheme}, only http and https are read")
        return super().redirect_request(request, file, code, message, headers, url)
