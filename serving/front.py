"""What stands between clients and an application: requests come to it whole, and it never waits for a client.

Servers give a thread to whoever connects, so that a few clients that send half a request hold all of them. Here one
loop reads from all clients, with a deadline for the head and one for the body, and only then is the application asked.
Its answer is taken from it at once, however slowly it is read.
"""

import asyncio
import json
import tempfile
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .azure.service import LEFT_EVENT
from .limits import Limits

HEAD_SECONDS = 10.0
# For who reads the answer.
ANSWER_SECONDS = 60.0
# What is too long is read on so long, for clients that look for an answer only at the end.
LINGER_SECONDS = 5.0
MOST_WAITING = 256
_IN_MEMORY = 2**20

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class WholeRequests:
    """An ASGI application that asks another one with whole requests.

    Args:
        application: is asked.
        limits: on a body.
    """

    def __init__(self, application: Application, limits: Limits):
        self.application, self.limits = application, limits
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:
            try:
                await self._read(scope, receive, body)
            except ConnectionError:
                return
            except _Refused as refused:
                answer = refused.answer
            else:
                length = body.tell()
                body.seek(0)
                answer = await self._ask(scope, receive, body.read, length)
        # In two messages: uvicorn's deadline for who does not read it begins when it has all.
        start, *parts = answer
        await send(start)
        await send({"type": "http.response.body", "body": b"".join(part.get("body", b"") for part in parts)})

    async def _read(self, scope: Scope, receive: Receive, body: Any) -> None:
        """Writes the body into a file.

        Raises:
            _Refused: it is too long, or late.
            ConnectionError: the client left.
        """
        headers = dict(scope["headers"])
        limit, length = self.limits.request_bytes, 0
        stated = headers.get(b"content-length", b"")
        if scope["method"] == "POST" and self._waiting >= MOST_WAITING:  # a probe of the health is none of them
            raise _Refused(503, "The server has too many requests: try again later.")
        too_long = _Refused(413, f"The request is longer than {limit / 2**20:.3g} MiB, the limit.")
        if stated.isdigit() and int(stated) > limit and b"expect" in headers:
            raise too_long  # who asks first has sent nothing
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise ConnectionError
                    length += len(message.get("body", b""))
                    if length <= limit:
                        body.write(message.get("body", b""))
                    elif loop.time() > begun + LINGER_SECONDS:
                        raise too_long
                    if not message.get("more_body"):
                        break
        except TimeoutError as error:
            text = f"The request did not arrive within {self.limits.body_seconds:g} seconds."
            raise _Refused(408, text) from error
        if length > limit:
            raise too_long

    async def _ask(
        self, scope: Scope, receive: Receive, read: Callable[[], bytes], length: int
    ) -> list[MutableMapping[str, Any]]:
        """The application's answer."""
        left, answer = threading.Event(), []
        framing = (b"content-length", b"transfer-encoding")
        headers = [(name, value) for name, value in scope["headers"] if name not in framing]
        whole = {**scope, LEFT_EVENT: left, "headers": [*headers, (b"content-length", str(length).encode())]}
        given = False

        async def give() -> MutableMapping[str, Any]:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": read(), "more_body": False}
            await asyncio.get_running_loop().create_future()  # the application hears of the client by the event
            raise AssertionError

        async def take(message: MutableMapping[str, Any]) -> None:
            answer.append(message)

        async def watch() -> None:
            await receive()
            left.set()

        watching = asyncio.create_task(watch())
        self._waiting += 1
        try:
            await self.application(whole, give, take)
        finally:
            self._waiting -= 1
            watching.cancel()
        return answer


class DeadlineProtocol(H11Protocol):
    """uvicorn's, with a deadline for a request's head and one for who reads the answer."""

    _head: asyncio.TimerHandle | None = None
    _answers = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._head_came()

    def on_response_complete(self) -> None:
        self._answers += 1
        self.loop.call_later(ANSWER_SECONDS, self._answer_late, self._answers)
        self._await_head()
        super().on_response_complete()

    def _await_head(self) -> None:
        self._head_came()
        self._head = self.loop.call_later(HEAD_SECONDS, self._head_late)

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _head_late(self) -> None:
        if not self.transport.is_closing():
            text = b'{"message": "The request did not arrive within %d seconds."}' % HEAD_SECONDS
            head = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n" % len(text) + text)
            self.transport.close()

    def _answer_late(self, answers: int) -> None:
        if answers == self._answers and self.transport.get_write_buffer_size():
            self.transport.abort()


class _Refused(Exception):
    """A request that the application is not asked about."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        body = json.dumps({"message": text}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        self.answer: list[MutableMapping[str, Any]] = [
            {"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]},
            {"type": "http.response.body", "body": body},
        ]


__all__ = ["DeadlineProtocol", "WholeRequests"]
