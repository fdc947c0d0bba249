"""A real web server on the loopback address, for what is read from URLs."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(
    files: dict[str, bytes],
    redirects: dict[str, str] | None = None,
    cut: dict[str, int] | None = None,
    seen: list[tuple[str, str]] | None = None,
) -> Iterator[str]:
    """Serves `files` (path -> content), gives the address. '/drip' drips bytes, '/short...' break off, '/no-http'
    answers with something else.

    Ranges are given, of the version that If-Range names. The first answer for a path in `cut` breaks off after so many
    bytes. `seen` gets (path, Range) of each request.
    """
    left_to_cut = dict(cut or {})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if seen is not None:
                seen.append((self.path, self.headers.get("Range", "")))
            if target := (redirects or {}).get(self.path):
                self.send_response(302)
                self.send_header("Location", target)
                self.end_headers()
            elif self.path == "/drip":
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b".")
                    self.wfile.flush()
                    time.sleep(0.1)
            elif self.path == "/short":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"only this")
            elif self.path == "/short-chunk":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"ff\r\nonly this")
            elif self.path == "/no-http":
                self.wfile.write(b"\x1b[2J\r\n\r\n")
            elif (body := files.get(self.path)) is not None:
                self.give(body)
            else:
                self.send_error(404, "Not Found")

        def give(self, body):
            tag = f'"{hashlib.sha256(body).hexdigest()}"'
            start = 0
            if (asked := self.headers.get("Range")) and self.headers.get("If-Range", tag) == tag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_error(416, "Range Not Satisfiable")
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start : left_to_cut.pop(self.path, len(body))])

        def handle(self):
            try:
                super().handle()
            except OSError:  # the reader went away, as some tests want
                self.close_connection = True

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
