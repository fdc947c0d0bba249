"""`ddetr serve` with good clients alone, and beside 16 slow clients and four images made to cost a decoder minutes.

    python benchmarks/hostile_clients.py                      # the embedded detector
    python benchmarks/hostile_clients.py detector/ --seconds 60

Needs the extra `serve`. Starts the server on a free port of the loopback address, the only one it sends to, and ends
it. Two clients send photos, one after the other, and a third one asks for the health; what they wait for is counted.
Prints Markdown.
"""

import argparse
import base64
import contextlib
import http.client
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from server import HERE, PHOTOS, Server, body, serving
from serving_page import Section, add_keep

sys.path.append(str(HERE.parent / "tests"))
from support.hostile_images import jpeg_of_scans

GIVEN_UP = 60.0  # seconds after which a good client leaves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(HERE.parent / "samples" / "blood-cells"))
    parser.add_argument("--seconds", type=float, default=30, help="of each of the two parts (default 30)")
    parser.add_argument("--title", default="Hostile clients")
    add_keep(parser)
    args = parser.parse_args()
    section = Section(f"{args.title}: {Path(args.model).name}")
    section.say("Two good clients, alone and then beside 8 half heads, 8 half bodies and four JPEGs of 4,000 scans.\n")
    section.say(
        "| | answered | given up after 60 s | median, ms | worst, ms | health: worst, ms | the JPEGs' answers |"
    )
    section.say("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, serving(args.model, [], Path(folder) / "log") as server:
        Stream(server, 5).result()
        section.say(row("alone", Stream(server, args.seconds).result(), ""))
        attack = Attack(server)
        time.sleep(0.5)
        figures = Stream(server, args.seconds).result()
        section.say(row("beside them", figures, attack.end()))
    if args.keep:
        section.keep()


class Stream:
    """Two clients that send photos for some seconds, and one that asks for the health."""

    def __init__(self, server: Server, seconds: float):
        self.server, self.until = server, time.monotonic() + seconds
        self.waits: list[float] = []
        self.health: list[float] = []
        self.given_up = 0
        bodies = [body(photo) for photo in PHOTOS]
        self.threads = [threading.Thread(target=self._send, args=[bodies[n:] + bodies[:n]]) for n in range(2)]
        self.threads.append(threading.Thread(target=self._probe))
        for thread in self.threads:
            thread.start()

    def result(self) -> "Stream":
        for thread in self.threads:
            thread.join()
        return self

    def _send(self, bodies: list[bytes]) -> None:
        number = 0
        while time.monotonic() < self.until:
            seconds = ask(self.server, "POST", "/score", bodies[number % len(bodies)])
            number += 1
            if seconds is None:
                self.given_up += 1
            else:
                self.waits.append(seconds)

    def _probe(self) -> None:
        while time.monotonic() < self.until:
            self.health.append(ask(self.server, "GET", "/") or GIVEN_UP)
            time.sleep(0.5)


class Attack:
    """16 slow clients, and four that send images."""

    def __init__(self, server: Server):
        self.over = threading.Event()
        self.answers: list[str] = []
        head = b"POST /score HTTP/1.1\r\nHost: a\r\n"
        halves = [(head, b"X-%d: a\r\n"), (head + b"Content-Length: 1000000\r\n\r\n", b"%d")]
        self.slow = [threading.Thread(target=self._drip, args=[server, *half]) for half in halves for _ in range(8)]
        image = base64.b64encode(jpeg_of_scans(4000)).decode()
        request = json.dumps({"input_data": {"columns": ["image"], "index": [0], "data": [image]}}).encode()
        self.images = [threading.Thread(target=self._image, args=[server, request]) for _ in range(4)]
        for thread in self.slow + self.images:
            thread.start()

    def end(self) -> str:
        self.over.set()
        for thread in self.slow + self.images:
            thread.join()
        return ", ".join(sorted(set(self.answers)))

    def _drip(self, server: Server, begin: bytes, part: bytes) -> None:
        number = 0
        while not self.over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(begin)
                while not self.over.wait(1):
                    number += 1
                    connection.sendall(part % number)

    def _image(self, server: Server, request: bytes) -> None:
        seconds = ask(server, "POST", "/score", request)
        self.answers.append("given up" if seconds is None else f"{seconds:.1f} s")


def ask(server: Server, method: str, path: str, content: bytes | None = None) -> float | None:
    """Seconds until the answer, or None where there is none in time."""
    begun = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=GIVEN_UP)
    try:
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return time.perf_counter() - begun if response.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


def row(name: str, figures: Stream, answers: str) -> str:
    """A line of the table."""
    waits = [1000 * seconds for seconds in figures.waits]
    median, worst = (f"{statistics.median(waits):.0f}", f"{max(waits):.0f}") if waits else ("", "")
    health = f"{1000 * max(figures.health):.0f}"
    return f"| {name} | {len(waits)} | {figures.given_up} | {median} | {worst} | {health} | {answers} |"


if __name__ == "__main__":
    main()
