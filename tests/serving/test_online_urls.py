"""URLs of requests reach public addresses only, are held to their limits, and tell nothing of the inside."""

import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from support.http_server import serving

from deformable_detr_refine.serving import safe_urls
from deformable_detr_refine.serving.limits import Limits
from deformable_detr_refine.serving.safe_urls import UrlError, fetch, fetch_all, is_public

ALLOWED = Limits(private_urls=True)

PRIVATE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1"),
    *("240.0.0.1", "255.255.255.255", "168.63.129.16"),
    *("::", "::1", "fe80::1", "fe80::1%2", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe"),
    "64:ff9b:1::808:808",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001"),
        *("0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "localhost.", "LOCALHOST"),
    ],
)
def test_no_spelling_of_this_machine_is_reached(host):
    with serving({"/a": b"secret"}) as address:
        port = address.rsplit(":", 1)[1]
        with pytest.raises(UrlError, match=r"^(http://\S+|A URL) (is not|cannot be) fetched: [^\n]+\.$"):
            fetch(f"http://{host}:{port}/a", Limits(url_seconds=3))
        if host in ("127.0.0.1", "localhost", "127.1", "2130706433"):
            assert fetch(f"http://{host}:{port}/a", ALLOWED) == b"secret"


def test_the_metadata_service_is_refused_at_once():
    started = time.monotonic()
    with pytest.raises(UrlError, match=r"http://169\.254\.169\.254 is not fetched: the host's address is not public"):
        fetch("http://169.254.169.254/metadata/identity", Limits())
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://example.org/a", "A URL cannot be fetched: only http and https URLs are."),
        ("file:///etc/passwd", "only http and https"),
        ("gopher://127.0.0.1/", "only http and https"),
        ("http://user:secret@127.0.0.1/", "the URL carries credentials"),
        ("http://user@127.0.0.1/", "the URL carries credentials"),
        ("http://@127.0.0.1/", "the URL carries credentials"),
        ("http:///a.jpg", "the URL has no host"),
        ("http://", "the URL has no host"),
        ("http://127.0.0.1:99999/", "the URL is malformed"),
        ("http://[::1/", "the URL is malformed"),
        ("http://a b/", "the host is not known"),
        ("http://a\ud800/", "http://a? cannot be fetched: the host is not known"),
        (f"http://{'a' * 300}/", "the host is not known"),
        ("http://127.0.0.1:0/", "the connection failed"),
    ],
)
def test_urls_that_are_none(url, sentence):
    with pytest.raises(UrlError) as caught:
        fetch(url, ALLOWED)
    assert sentence in str(caught.value) and "secret" not in str(caught.value)


def test_redirects_are_followed_and_held_to_the_same(monkeypatch):
    content = b"x" * 100
    with serving({"/a b.png": b"", "/a%20b.png": content}) as inner:
        redirects = {"/go": "/a%20b.png", "/loop": "/loop", "/file": "file:///etc/passwd", "/in": f"{inner}/a%20b.png"}
        redirects |= {"/login": f"http://me:secret@{inner[7:]}/", "/metadata": "http://169.254.169.254/latest"}
        with serving({"/a%20b.png": content}, redirects) as outer:
            assert fetch(f"{outer}/go?x=1".split("?")[0], ALLOWED) == content
            assert fetch(f"{outer}/a b.png", ALLOWED) == content
            for path, sentence in {
                "/loop": "redirects more than 5 times",
                "/file": "only http and https",
                "/login": "carries credentials",
            }.items():
                with pytest.raises(UrlError, match=sentence):
                    fetch(outer + path, ALLOWED)
            # The outer server counts as public, whatever else this machine has does not.
            monkeypatch.setattr(socket, "getaddrinfo", resolver({"outer.example": ["127.0.0.1"]}))
            monkeypatch.setattr(safe_urls, "is_public", lambda address: address == "127.0.0.1")
            port = outer.rsplit(":", 1)[1]
            assert fetch(f"http://outer.example:{port}/go", Limits()) == content
            with pytest.raises(UrlError, match=r"http://169\.254\.169\.254 is not fetched"):
                fetch(f"http://outer.example:{port}/metadata", Limits())


_system_look_up = socket.getaddrinfo


def resolver(names: dict[str, list[str]], calls: list | None = None):
    """A look-up that gives these names these addresses, the next one at each call."""

    def look_up(host, port, *args, **kwargs):
        if host in names:
            if calls is not None:
                calls.append(host)
            addresses = names[host]
            host = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return _system_look_up(host, port, *args, **kwargs)

    return look_up


def test_a_name_that_changes_its_address_is_resolved_once(monkeypatch):
    calls: list = []
    with serving({"/a": b"what was checked"}) as address:
        port = address.rsplit(":", 1)[1]
        # The second look-up would lead elsewhere: nobody listens there.
        monkeypatch.setattr(socket, "getaddrinfo", resolver({"a.example": ["127.0.0.1", "127.0.0.9"]}, calls))
        monkeypatch.setattr(safe_urls, "is_public", lambda address: address == "127.0.0.1")
        assert fetch(f"http://a.example:{port}/a", Limits()) == b"what was checked"
        assert calls == ["a.example"]


def test_one_private_address_among_several_is_enough_to_refuse(monkeypatch):
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: both)
    with pytest.raises(UrlError, match="address is not public"):
        fetch("http://a.example/", Limits())


def test_the_host_header_is_the_name(monkeypatch):
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers["Host"], self.headers["Authorization"], self.headers["Cookie"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(socket, "getaddrinfo", resolver({"photos.example": ["127.0.0.1"]}))
        assert fetch(f"http://photos.example:{server.server_port}/ä b?q=ü%20#part", ALLOWED) == b"ok"
        server.shutdown()
    assert seen == [("/%C3%A4%20b?q=%C3%BC%20", f"photos.example:{server.server_port}", None, None)]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificates_are_held_to_the_name_not_the_address(monkeypatch, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=photos.example"
    more = ["-addext", "subjectAltName=DNS:photos.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *more], check=True, capture_output=True)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(safe_urls, "_tls_context", lambda: trusting)
    names = {"photos.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    monkeypatch.setattr(socket, "getaddrinfo", resolver(names))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"safe")

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args):
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = server_side.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        assert fetch(f"https://photos.example:{server.server_port}/", ALLOWED) == b"safe"
        with pytest.raises(UrlError, match="its certificate is not valid"):
            fetch(f"https://other.example:{server.server_port}/", ALLOWED)
        server.shutdown()


def test_limits_on_size_time_and_status():
    with serving({"/long": b"x" * 5000, "/fits": b"x" * 1000}) as address:
        small = Limits(private_urls=True, url_bytes=1000)
        assert len(fetch(f"{address}/fits", small)) == 1000
        with pytest.raises(UrlError, match=r"it is longer than 0\.000954 MiB"):
            fetch(f"{address}/long", small)
        with pytest.raises(UrlError, match="the server answers 404"):
            fetch(f"{address}/none", ALLOWED)
        with pytest.raises(UrlError, match="the connection ended early"):
            fetch(f"{address}/short", ALLOWED)
        started = time.monotonic()
        with pytest.raises(UrlError, match=r"not finished within 0\.5 seconds"):
            fetch(f"{address}/drip", Limits(private_urls=True, url_seconds=0.5))
        assert time.monotonic() - started < 5


def test_a_server_that_drips_its_header_or_says_nothing_meets_the_deadline():
    def drip(server: socket.socket) -> None:
        while True:
            try:
                peer, _ = server.accept()
                with peer:
                    peer.sendall(b"HTTP/1.1 200 OK\r\n")
                    for _ in range(100):
                        peer.sendall(b"X-A: b\r\n")
                        time.sleep(0.1)
            except OSError:
                if server.fileno() < 0:
                    return

    with socket.create_server(("127.0.0.1", 0)) as dripping, socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=drip, args=(dripping,), daemon=True).start()
        urls = [f"http://127.0.0.1:{server.getsockname()[1]}/" for server in (dripping, silent)]
        started = time.monotonic()
        found = fetch_all(urls, Limits(private_urls=True, url_seconds=0.5))
        assert time.monotonic() - started < 5
        assert all("not finished within 0.5 seconds" in str(error) for error in found)
        time.sleep(1)  # of the ten seconds for which the first one drips
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("url")]


def test_the_time_is_that_of_all_urls_of_a_request(monkeypatch):
    def slow(*args, **kwargs):
        time.sleep(1)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    started = time.monotonic()
    found = fetch_all([f"http://{i}.example/" for i in range(20)], Limits(url_seconds=0.3))
    assert time.monotonic() - started < 0.9
    assert len(found) == 20 and all("not finished" in str(error) for error in found)


def test_order_is_kept_and_the_bytes_of_a_request_are_counted_together():
    files = {f"/{i}": bytes([i]) * 1000 for i in range(12)}
    with serving(files) as address:
        urls = [f"{address}/{i}" for i in range(12)]
        assert fetch_all([*urls[:3], f"{address}/none", *urls[3:]], ALLOWED)[4:] == list(files.values())[3:]
        found = fetch_all(urls, Limits(private_urls=True, request_bytes=5500))
        assert sum(isinstance(item, bytes) for item in found) == 5
        refused = [str(item) for item in found if isinstance(item, UrlError)]
        assert all("the request's URLs bring more than" in text for text in refused)


def test_errors_tell_nothing_of_the_url_but_its_host():
    with serving({}) as address:
        with pytest.raises(UrlError) as caught:
            fetch(f"{address}/private/path?token=secret", ALLOWED)
        assert "secret" not in str(caught.value) and "path" not in str(caught.value)
