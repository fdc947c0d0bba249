"""Azure's own inference server with the scoring script, from the outside.

It runs in an environment of its own (`make serve-env`), or in this one where that has the server.
"""

import base64
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from support.hostile_images import jpeg_of_scans
from support.http_server import serving
from support.small_detector import save_small_detector
from support.without_torch import environment_without_torch, save_exported_means

from deformable_detr_refine.inference.detector import Detector
from deformable_detr_refine.serving import azure

pytestmark = pytest.mark.slow

SERVE_ENVIRONMENT = Path(__file__).parents[2] / ".venv-serve"
SLOWEST_START = 900


@pytest.fixture(scope="module")
def python() -> str:
    """The interpreter that has the server."""
    if (SERVE_ENVIRONMENT / ".ready").exists():
        return str(SERVE_ENVIRONMENT / "bin" / "python")
    if find_spec("azureml_inference_server_http"):
        return sys.executable
    pytest.skip("make serve-env")


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """Is there when something out of the model's folder was executed."""
    return tmp_path_factory.mktemp("executed") / "file"


@pytest.fixture(scope="module")
def model(executed, tmp_path_factory) -> Path:
    """Answers in milliseconds; its folder may have come from somewhere, and holds what must not be executed."""
    folder = save_small_detector(tmp_path_factory.mktemp("served") / "detector")
    for name in ("gunicorn.conf.py", "flask.py", "sitecustomize.py"):
        (folder / name).write_text(f"open({str(executed)!r}, 'w')\nraise SystemExit(3)\n")
    return folder


class Server:
    """A `ddetr serve` that runs."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path):
        self.process, self.port, self.log = process, port, log

    def ask(self, method: str, path: str, body=None, headers=None, timeout: float = 300) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def score(self, body: dict | bytes) -> tuple[int, object]:
        status, answer = self.ask("POST", "/score", body if isinstance(body, bytes) else json.dumps(body).encode())
        assert b"Traceback" not in answer and b'File "' not in answer
        return status, json.loads(answer)


@contextmanager
def started(python: str, model: Path, folder: Path, *arguments: str, environment: dict[str, str] | None = None):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # -P: the current folder is not imported from, as with `ddetr` itself.
    command = [python, "-P", "-m", "ddetr.main", "serve", str(model), "--port", str(port), *arguments]
    log = folder / "server.log"
    with log.open("w") as output:
        # From the model's folder, whose config.json is not the server's, and which is not imported from.
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=model, env=environment)
    server = Server(process, port, log)
    try:
        deadline = time.monotonic() + SLOWEST_START
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            try:
                assert server.ask("GET", "/", timeout=10) == (200, b"Healthy")
                break
            except OSError:
                time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(300)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(python, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    with started(
        python, model.parent, folder, "--workers", "2", "--threads", "3", "--request-bytes", str(2**20), "--cores", "2"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def photos(samples) -> list[bytes]:
    return [(samples / name).read_bytes() for name in ("10.jpg", "BloodImage_00000.jpg", "11.jpg")]


def request(*images: bytes | str) -> dict:
    data = [base64.encodebytes(image).decode() if isinstance(image, bytes) else image for image in images]
    return {"input_data": {"columns": ["image"], "index": list(range(len(data))), "data": data}}


def test_the_cards_sample(server, model, photos):
    status, answer = server.score(request(*photos))
    assert status == 200
    expected = [found.to_azure() for found in Detector(model, device="cpu").detect(photos)]
    assert len(answer) == 3
    for entry, other in zip(answer, expected, strict=True):
        assert list(entry) == ["boxes"] and len(entry["boxes"]) == 100
        scores, others = ([item["score"] for item in side["boxes"]] for side in (entry, other))
        np.testing.assert_allclose(scores, others, atol=1e-5)
        assert entry["boxes"][0].keys() == {"box", "label", "score"}
        assert entry["boxes"][0]["box"].keys() == {"topX", "topY", "bottomX", "bottomY"}


def test_one_bad_image_has_its_error_in_its_place(server, photos):
    status, answer = server.score(request("image1", photos[0], "http://127.0.0.1:1/", "http://169.254.169.254/latest"))
    assert status == 200
    assert [len(entry["boxes"]) for entry in answer] == [0, 100, 0, 0]
    assert all("address is not public" in entry["error"] for entry in answer[2:])


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe\x00", b"[" * 10_000, b"null", b'{"input_data": {"columns": ["x"], "data": ["a"]}}'],
    ids=lambda body: repr(body[:20]),
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
def test_what_is_no_request_is_told_in_one_sentence(server, body, kind):
    status, answer = server.ask("POST", "/score", body, {"Content-Type": kind} if kind else {"X": "y"})
    assert status == 400
    assert re.fullmatch(r'\{"message": "[^\n]+\."\}', answer.decode())


def test_requests_beyond_the_limit_are_refused_however_they_come(server, photos):
    long = b" " * (2**20 + 1)
    status, answer = server.score(long)
    assert (status, answer) == (413, {"message": "The request is longer than 1 MiB, the limit."})
    # http.client sends what it iterates over in chunks, without a length.
    status, answer = server.ask("POST", "/score", iter([long[: 2**19]] * 3))
    assert status == 413
    status, answer = server.ask("POST", "/score", iter([json.dumps(request(photos[0])).encode()]))
    assert status == 200 and len(json.loads(answer)[0]["boxes"]) == 100
    assert server.score(request(*["image1"] * 33))[0] == 413


def test_other_methods_and_paths(server):
    assert server.ask("GET", "/score")[0] == 405
    assert server.ask("OPTIONS", "/score")[0] == 200
    assert server.ask("DELETE", "/score")[0] == 405
    assert server.ask("GET", "/nothing")[0] == 404


def test_clients_at_the_same_time_get_what_one_gets(server, photos):
    expected = server.score(request(*photos))[1]
    with ThreadPoolExecutor(8) as pool:
        for status, answer in pool.map(lambda _: server.score(request(*photos)), range(24)):
            assert status == 200
            for entry, other in zip(answer, expected, strict=True):
                scores, others = ([item["score"] for item in side["boxes"]] for side in (entry, other))
                np.testing.assert_allclose(scores, others, atol=1e-5)


def test_a_killed_client_costs_nothing(server, photos):
    body = json.dumps(request(*photos)).encode()
    head = f"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (head, head + body[:1000], head + body, head[:20], b""):
        for _ in range(8):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(sent)
                # As a killed process leaves it: the connection is reset.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert server.score(request(photos[0]))[0] == 200
    assert "Traceback" not in server.log.read_text()


def test_slow_clients_and_scan_bombs_hold_nobody_up(server, photos):
    head = b"POST /score HTTP/1.1\r\nHost: a\r\n"
    halves = [head, head + b"Content-Length: 1000\r\n\r\n{", head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"] * 6
    with ExitStack() as connections, ThreadPoolExecutor(4) as pool:
        for half in halves:
            connection = socket.create_connection(("127.0.0.1", server.port))
            connections.enter_context(connection).sendall(half)
        bombs = pool.map(lambda _: server.score(request(jpeg_of_scans(4000))), range(4))
        for _ in range(3):
            assert server.ask("GET", "/", timeout=20) == (200, b"Healthy")
            status, answer = server.score(request(photos[0]))
            assert status == 200 and len(answer[0]["boxes"]) == 100
        for status, answer in bombs:
            assert status == 200 and "4001 scans, the limit is 100" in answer[0]["error"]
    assert "Traceback" not in server.log.read_text()


def test_many_elements_are_refused_before_they_are_parsed(server):
    status, answer = server.score(b"[" + b"[]," * 300_000 + b"[]]")
    assert status == 413 and "600002 elements, the limit is 10000" in answer["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_request_at_work_finish(python, model, photos, tmp_path, number):
    arguments = ("--threads", "2", "--private-urls", "--url-seconds", "4")
    with serving({}) as slow, started(python, model, tmp_path, *arguments) as server, ThreadPoolExecutor(1) as pool:
        future = pool.submit(server.score, request(f"{slow}/drip", photos[0]))
        time.sleep(2)
        assert not future.done()
        server.process.send_signal(number)
        status, (dripping, whole) = future.result(300)
        assert status == 200 and len(whole["boxes"]) == 100
        assert "not finished within 4 seconds" in dripping["error"]
        assert server.process.wait(300) == 0
        assert "SIGKILL" not in server.log.read_text()  # which ends who has not ended by itself
        with pytest.raises(OSError):
            server.ask("GET", "/", timeout=5)


HOOKS = """
import os, signal
def post_fork(server, worker):
    os.kill(os.getpid(), signal.SIGTERM)
def post_worker_init(worker):
    os.write(1, b"lost")
    os._exit(0)
def child_exit(server, worker):
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_for_a_worker_that_has_just_begun_is_not_lost(python, model, tmp_path):
    (tmp_path / "hooks.py").write_text(HOOKS)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [python, "-P", "-m", "ddetr.main", "serve", str(model), "--port", port]
    environment = {**os.environ, "GUNICORN_CMD_ARGS": f"--config {tmp_path / 'hooks.py'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SLOWEST_START)
    assert done.returncode == 0 and "lost" not in done.stdout, done.stdout + done.stderr


def test_memory_is_flat_over_many_requests(server, photos):
    """Of 200 kB each: windows in which they were kept would each add 50 MB. Fragments add less with every window."""
    body = json.dumps(request(photos[0])).encode()
    memory = []

    def ask(_) -> None:
        assert server.ask("POST", "/score", body)[0] == 200

    with ThreadPoolExecutor(6) as pool:
        while len(memory) < 6:
            list(pool.map(ask, range(250)))
            memory.append(_memory(server.process.pid))
            if len(memory) > 1 and memory[-1] - memory[-2] < 10:
                return
    pytest.fail("MiB of the server's processes after each 250 requests: " + ", ".join(f"{m:.0f}" for m in memory))


def _memory(master: int) -> float:
    """Private memory of a process and its children in MiB."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    total = 0
    for process in (str(master), *children):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total / 1024


def test_nothing_in_the_current_folder_is_executed(server, photos, executed):
    assert server.score(request(photos[0]))[0] == 200
    assert not executed.exists()


EACH = """
import json, sys
from ddetr.main import main
for words in json.loads(sys.argv[1]):
    print("status", main(words), file=sys.stderr)
"""


def test_it_says_where_it_answers(server):
    assert f"POST http://127.0.0.1:{server.port}/score; Ctrl-C ends it" in server.log.read_text()


def test_errors_before_the_start_are_one_line(python, model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port, other = (str(server.getsockname()[1]) for server in (taken, free))
        free.close()
        cases = (
            ([str(model), "--port", port], f"Nothing can listen on 127.0.0.1, port {port}"),
            (["./none", "--port", other], "There is no model folder ./none: check the path."),
            ([str(model), "--port", other, "--device", "warp"], "There is no device warp here"),
        )
        words = json.dumps([["serve", *arguments] for arguments, _ in cases])
        command = [python, "-c", EACH, words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SLOWEST_START, cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr + done.stdout, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(("ddetr", "status"))]
    assert lines[1::2] == ["status 2"] * len(cases)
    for line, (_, error) in zip(lines[::2], cases, strict=True):
        assert line.startswith("ddetr serve: error: ") and error in line


def test_the_server_starts_by_itself_as_in_azures_containers(python, model, photos, tmp_path):
    """`azmlinfsrv` with the scoring script, the model found in the folder that Azure mounts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = Path(azure.__file__).with_name("score.py")
    command = [python, "-m", "azureml_inference_server_http", "--entry_script", str(script)]
    environment = os.environ | {"AZUREML_MODEL_DIR": str(model.parent), "DDETR_DEVICE": "cpu", "DDETR_CORES": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=log, stderr=log, cwd=tmp_path, env=environment
        )
    server = Server(process, port, tmp_path / "log")
    try:
        deadline = time.monotonic() + SLOWEST_START
        while True:
            assert process.poll() is None and time.monotonic() < deadline, server.log.read_text()
            try:
                status, answer = server.score(request(photos[0]))
                break
            except OSError:
                time.sleep(0.5)
        assert status == 200 and len(answer[0]["boxes"]) == 100
    finally:
        process.terminate()
        process.wait(300)


def test_an_onnx_file_is_served_without_torch(python, samples, tmp_path):
    pytest.importorskip("onnx")
    folder = tmp_path / "exported"
    folder.mkdir()
    (found,) = Detector(save_exported_means(folder / "means.onnx")).detect([samples / "10.jpg"])
    image = base64.b64encode((samples / "10.jpg").read_bytes()).decode()
    environment = environment_without_torch(tmp_path / "site")
    with started(python, folder, tmp_path, environment=environment) as server:
        assert server.score({"input_data": {"columns": ["image"], "index": [0], "data": [image]}}) == (
            200,
            [found.to_azure()],
        )
