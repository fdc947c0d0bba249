"""`ddetr serve` under load: how long requests take and how many images a second, at 1, 4 and 16 clients.

    python benchmarks/server.py                              # an R-50 detector with random weights, at 800x1333
    python benchmarks/server.py detector/ --clients 1,4,16 --requests 64 --serve "--workers 2 --threads 4"
    python benchmarks/server.py detector/ --soak 2000        # memory over 2,000 requests

Needs the extra `serve`. Starts the server on a free port of the loopback address, the only one it sends to, and ends
it. Each setting ends after its requests or its seconds, whichever comes first. Clients send one photo of samples/images
a request, as base64, over a connection that stays open, and the next one when the answer is there. Prints Markdown.
"""

import argparse
import base64
import http.client
import itertools
import json
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from serving_page import Section, add_keep
from timing import forward_alone

HERE = Path(__file__).parent
PHOTOS = sorted((HERE.parent / "samples" / "images").glob("*.jpg"))
SLOWEST_START = 300
SLOWEST_ANSWER = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a model folder or .onnx file (default: R-50 with random weights)")
    parser.add_argument("--clients", default="1,4,16", help="numbers of clients at the same time (default 1,4,16)")
    parser.add_argument("--requests", type=int, default=48, help="most requests of a setting (default 48)")
    parser.add_argument("--seconds", type=float, default=180, help="longest time of a setting (default 180)")
    parser.add_argument("--serve", default="", help='more arguments of ddetr serve, as "--workers 2"')
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="also N requests by 4 clients, with memory")
    add_keep(parser)
    args = parser.parse_args()
    name = Path(args.model).name if args.model else "R-50, random weights"
    section = Section(f"Requests: {name}" + f", {args.serve}" * bool(args.serve))
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or random_detector(Path(folder))
        sizes = [(image.height, image.width) for image in map(Image.open, PHOTOS)]
        alone = "" if model.endswith(".onnx") else f"\n{forward_alone(model, sizes)}\n"
        with serving(model, shlex.split(args.serve), Path(folder) / "log") as server:
            bodies = [body(photo) for photo in PHOTOS]
            load(server, bodies, 2, 4, args.seconds)  # fills caches
            section.say(f"`{f'ddetr serve {args.serve}'.strip()}`, one photo per request.\n")
            section.say(
                "| clients | requests | p50, ms | p99, ms | images/s | memory, MiB |\n|---|---|---|---|---|---|"
            )
            for clients in map(int, args.clients.split(",")):
                times, seconds = load(server, bodies, clients, max(args.requests, clients), args.seconds)
                section.say(row(clients, times, seconds, server.memory()))
            section.say(alone)
            if args.soak:
                section.say(f"{soak(server, bodies, args.soak, args.seconds)}")
    if args.keep:
        section.keep()


class Server:
    """The server's port and process."""

    def __init__(self, port: int, process: subprocess.Popen):
        self.port, self.process = port, process

    def memory(self) -> float:
        """MiB of the server's processes; what they share is counted once. 0 where /proc does not tell."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in (self.process.pid, *children)]
        except OSError:
            return 0.0
        lines = itertools.chain.from_iterable(text.splitlines() for text in rollups)
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@contextmanager
def serving(model: str, arguments: list[str], log: Path) -> Iterator[Server]:
    """`ddetr serve` on a free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ddetr.main", "serve", model, "--port", str(port), *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + SLOWEST_START
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"The server did not start:\n{log.read_text()}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request("GET", "/")
                connection.getresponse().read()
                break
            except OSError:
                time.sleep(0.2)
        yield Server(port, process)
    finally:
        process.terminate()
        process.wait(120)


def load(server: Server, bodies: list[bytes], clients: int, requests: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each request, and of them all."""
    numbers, times = iter(range(requests)), []
    failures: list[str] = []
    started = time.monotonic()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SLOWEST_ANSWER)
        # `next` of a range is one step for Python's threads.
        while time.monotonic() - started < seconds and (number := next(numbers, None)) is not None:
            begun = time.perf_counter()
            connection.request("POST", "/score", bodies[number % len(bodies)], {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            times.append(time.perf_counter() - begun)
            if response.status != 200 or b'"error"' in answer:
                failures.append(answer[:200].decode("utf-8", "replace"))
                return

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or not times:
        raise SystemExit(f"{len(failures)} requests failed, the first with: {failures[:1]}")
    return times, time.monotonic() - started


def row(clients: int, times: list[float], seconds: float, memory: float) -> str:
    """A line of the table."""
    ordered = sorted(times)
    slow = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    cells = [clients, len(times), f"{statistics.median(times) * 1000:.0f}", f"{slow * 1000:.0f}"]
    return f"| {' | '.join(map(str, cells))} | {len(times) / seconds:.2f} | {memory:.0f} |"


def soak(server: Server, bodies: list[bytes], requests: int, seconds: float) -> str:
    """How the memory goes over many requests."""
    done, figures = 0, [f"{server.memory():.0f}"]
    while done < requests:
        times, _ = load(server, bodies, 4, min(250, requests - done), seconds)
        done += len(times)
        figures.append(f"{server.memory():.0f}")
    return f"Memory in MiB, at the start and after each 250 of {done} requests by 4 clients: {', '.join(figures)}."


def body(photo: Path) -> bytes:
    """A request of the card's form."""
    image = base64.b64encode(photo.read_bytes()).decode()
    return json.dumps({"input_data": {"columns": ["image"], "index": [0], "data": [image]}}).encode()


def random_detector(folder: Path) -> str:
    """A detector of full size."""
    import torch

    from deformable_detr_refine import (
        DeformableDetrRefineConfig,
        DeformableDetrRefineForObjectDetection,
        DeformableDetrRefineImageProcessor,
    )

    torch.manual_seed(0)
    DeformableDetrRefineForObjectDetection(DeformableDetrRefineConfig(num_labels=80)).save_pretrained(folder / "model")
    DeformableDetrRefineImageProcessor().save_pretrained(folder / "model")
    return str(folder / "model")


if __name__ == "__main__":
    main()
