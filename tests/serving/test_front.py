"""Requests come to an application whole, or their sender is told why not; it never waits for a client."""

import asyncio
import json
import socket
import threading
import time

import pytest

uvicorn = pytest.importorskip("uvicorn")

from deformable_detr_refine.serving import front  # noqa: E402
from deformable_detr_refine.serving.azure.schema import RequestError, parse_request  # noqa: E402
from deformable_detr_refine.serving.azure.service import LEFT_EVENT, _Places  # noqa: E402
from deformable_detr_refine.serving.limits import Limits  # noqa: E402

LONG = 8 * 2**20  # an answer that no socket holds


class Application:
    """Answers with the length that it was told, and keeps what it was asked."""

    def __init__(self):
        self.bodies: list[bytes] = []
        self.left: list[threading.Event] = []
        self.answered = threading.Event()

    async def __call__(self, scope, receive, send):
        message = await receive()
        assert not message["more_body"]
        self.bodies.append(message["body"])
        self.left.append(scope[LEFT_EVENT])
        while scope["path"] == "/wait" and not scope[LEFT_EVENT].is_set():
            await asyncio.sleep(0.01)
        content = bytes(LONG) if scope["path"] == "/long" else dict(scope["headers"])[b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b""})  # as a2wsgi ends
        self.answered.set()


@pytest.fixture
def application():
    return Application()


@pytest.fixture
def port(application, monkeypatch):
    for name in ("HEAD_SECONDS", "ANSWER_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(front, name, 0.5)
    whole = front.WholeRequests(application, Limits(request_bytes=1000, body_seconds=0.5))
    config = uvicorn.Config(whole, http=front.DeadlineProtocol, lifespan="off", ws="none", log_level="critical")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(60)


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LATE = b"did not arrive within"


def exchange(port: int, *parts: bytes) -> bytes:
    """What comes back for what is sent part by part, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        return answer


@pytest.mark.parametrize(
    "parts",
    [
        (HEAD + b"Content-Length: 6\r\n\r\n", b"abc", b"def"),
        (HEAD[:20], HEAD[20:] + b"Content-Length: 6\r\n\r\nabcdef"),
        (CHUNKED + b"3\r\nabc\r\n3", b"\r\ndef\r\n0\r\nTrailer: 1\r\n\r\n"),
    ],
    ids=["body in parts", "head in parts", "chunks and a trailer"],
)
def test_requests_come_whole(port, application, parts):
    answer = exchange(port, *parts)
    assert answer.startswith(b"HTTP/1.1 200") and b"\r\n6\r\n" in answer
    assert application.bodies == [b"abcdef"]


@pytest.mark.parametrize(
    ("begin", "status", "sentence"),
    [
        (b"", b"408", LATE),
        (HEAD, b"408", LATE),
        (HEAD + b"Content-Length: 6\r\n\r\nabc", b"408", LATE),
        (CHUNKED + b"3\r\nabc\r\n3\r\nd", b"408", LATE),
        (CHUNKED + b"3\r\nabc\r\n0\r\nTrailer: 1\r\n", b"408", LATE),
        (HEAD + b"Content-Length: 1001\r\n\r\n" + bytes(1001), b"413", b"longer than 0.000954 MiB"),
        (HEAD + b"Content-Length: 9999\r\nExpect: 100-continue\r\n\r\n", b"413", b"longer than"),
    ],
    ids=["nothing", "half a head", "half a body", "half a chunk", "half a trailer", "too long", "asks first"],
)
def test_who_sends_half_or_too_much_is_told(port, application, begin, status, sentence):
    answer = exchange(port, begin)
    assert answer.startswith(b"HTTP/1.1 " + status) and sentence in answer
    assert list(json.loads(answer.rpartition(b"\r\n\r\n")[2])) == ["message"]
    assert application.bodies == []


@pytest.mark.parametrize(
    ("begin", "part"), [(HEAD, b"X: y\r\n"), (HEAD + b"Content-Length: 900\r\n\r\n", b"a")], ids=["head", "body"]
)
def test_dripping_does_not_help(port, application, begin, part):
    with socket.create_connection(("127.0.0.1", port), timeout=0.05) as connection:
        connection.sendall(begin)
        for _ in range(200):
            try:
                connection.sendall(part)
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408")
                break
            except TimeoutError:
                continue
        else:
            pytest.fail("the server still listens after ten seconds")
    assert application.bodies == []


def test_who_does_not_read_holds_nothing(port, application):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(HEAD.replace(b"/ ", b"/long ", 1) + b"Content-Length: 0\r\n\r\n")
        assert application.answered.wait(20)  # though nothing was read
        time.sleep(1)
        received = 0
        try:
            while part := connection.recv(1 << 16):
                received += len(part)
        except ConnectionResetError:
            pass
        assert received < LONG


def test_health_is_answered_when_too_many_wait(port, monkeypatch):
    monkeypatch.setattr(front, "MOST_WAITING", 0)
    assert b"503" in exchange(port, HEAD + b"Content-Length: 0\r\n\r\n").splitlines()[0]
    probe = HEAD.replace(b"POST", b"GET") + b"\r\n"
    assert b"200" in exchange(port, probe).splitlines()[0]


def test_an_application_hears_that_the_client_has_left(port, application):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HEAD.replace(b"/ ", b"/wait ", 1) + b"Content-Length: 0\r\n\r\n")
        time.sleep(0.2)
    assert application.answered.wait(20) and application.left[0].is_set()


@pytest.mark.parametrize("element", ["[]", "{}", "1", '{"a": 1}'])
def test_elements_are_counted_before_they_are_parsed(element, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("parsed"))
    text = f"[{', '.join([element] * 20_000)}]"
    for body in (text, text.encode()):
        with pytest.raises(RequestError, match=r"elements, the limit is 10000") as caught:
            parse_request(body, Limits())
        assert caught.value.status == 413


def test_who_waits_for_a_slow_image_makes_place():
    places = _Places(1)
    with places:
        assert places.begin()
        with places:  # another request
            pass
        places.end()
    # So many slow ones, and no more.
    assert [places.begin() for _ in range(5)] == [True] * 4 + [False]
