"""Fetching: from a server in this process, and from servers that lie, stall or are not there."""

import gzip
import hashlib
import http.server
import os
import socket
import threading
import time
import zipfile

import pytest

from rnn_jax.data import NAMED_SETS, DataError, RemoteFile, cache_folder, fetch
from rnn_jax.data.fetch import content

BODY = b"to be or not to be\n" * 10_000


class Server(http.server.ThreadingHTTPServer):
    """A server that remembers (path, client's name) of every request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str]] = []
        self.meeting = threading.Barrier(2)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves /whole, /moved, /together (to two at once), /short (ends early), /endless and /slow (byte by byte)."""

    def do_GET(self):
        assert isinstance(self.server, Server)
        self.server.requests.append((self.path, self.headers["User-Agent"]))
        if self.path == "/moved":
            self.send_response(301)
            self.send_header("Location", "/whole")
            self.end_headers()
            return
        if self.path == "/together":
            self.server.meeting.wait(10)
        elif self.path not in ("/whole", "/short", "/endless", "/slow"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path in ("/whole", "/short", "/together"):
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if self.path in ("/whole", "/together"):
            self.wfile.write(BODY)
        elif self.path == "/short":
            self.wfile.write(BODY[:1000])
        elif self.path == "/endless":
            try:
                while True:
                    self.wfile.write(BODY)
            except OSError:
                pass
        else:
            for byte in BODY[:6]:
                time.sleep(0.1)
                self.wfile.write(bytes([byte]))

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(*addresses, body=BODY, path="set/file.txt", checksum=None, algorithm="sha256"):
    checksum = checksum or hashlib.sha256(body).hexdigest()
    return RemoteFile(path, addresses, len(body), checksum, algorithm)


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_fetched_once(server, tmp_path):
    file = remote(server.address + "/whole")
    path = fetch(file, tmp_path)
    assert path == tmp_path / "set" / "file.txt"
    assert path.read_bytes() == BODY
    assert files_in(tmp_path) == ["file.txt"]
    server.shutdown()
    server.server_close()
    assert fetch(file, tmp_path) == path
    assert [path for path, _ in server.requests] == ["/whole"]
    assert "Python-urllib" not in server.requests[0][1]


def test_the_file_can_be_read_by_those_who_share_the_cache(server, tmp_path):
    path = fetch(remote(server.address + "/whole"), tmp_path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_redirects_are_followed(server, tmp_path):
    assert fetch(remote(server.address + "/moved"), tmp_path).read_bytes() == BODY


def test_a_damaged_cached_file_is_fetched_anew(server, tmp_path):
    file = remote(server.address + "/whole")
    fetch(file, tmp_path).write_bytes(b"damaged")
    assert fetch(file, tmp_path).read_bytes() == BODY


def test_a_wrong_checksum_is_refused(server, tmp_path):
    expected, found = "0" * 64, hashlib.sha256(BODY).hexdigest()
    with pytest.raises(DataError, match=f"refused: expected sha256 {expected}, found {found}") as caught:
        fetch(remote(server.address + "/whole", checksum=expected), tmp_path)
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == []


def test_other_checksums_than_sha256(server, tmp_path):
    md5 = hashlib.md5(BODY).hexdigest()
    assert fetch(remote(server.address + "/whole", checksum=md5, algorithm="md5"), tmp_path).exists()
    with pytest.raises(DataError, match=f"refused: expected md5 1234, found {md5}"):
        fetch(remote(server.address + "/whole", path="x", checksum="1234", algorithm="md5"), tmp_path)


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("/short", f"ended early: expected {len(BODY)} bytes, found 1000"),
        ("/endless", f"refused: expected {len(BODY)} bytes, found more"),
        ("/nothing", "HTTP status 404 Not Found"),
    ],
)
def test_wrong_answers_are_named(server, tmp_path, page, problem):
    address = server.address + page
    with pytest.raises(DataError) as caught:
        fetch(remote(address), tmp_path, timeout=5.0, argument="valid")
    message = str(caught.value)
    assert f"{address}: {problem}; the cache is" in message
    assert message.startswith("valid: could not fetch set/file.txt (0.2 MB) from http://")
    assert str(tmp_path) in message
    assert message.endswith("pass a local file as --valid=PATH")
    assert files_in(tmp_path) == []


def test_the_second_address_is_tried(server, tmp_path):
    file = remote(server.address + "/nothing", server.address + "/whole")
    assert fetch(file, tmp_path).read_bytes() == BODY
    both = remote(server.address + "/nothing", server.address + "/short", path="x")
    with pytest.raises(DataError, match=r"404 Not Found; http.*ended early"):
        fetch(both, tmp_path)


def test_a_refused_connection_is_named_at_once(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    started = time.monotonic()
    with pytest.raises(DataError, match=r"Connection refused; the cache is .* pass a local file as --corpus=PATH"):
        fetch(remote(address), tmp_path)
    assert time.monotonic() - started < 5
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("addresses", [1, 2])
def test_silence_is_given_up(server, tmp_path, addresses):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        started = time.monotonic()
        with pytest.raises(DataError, match=f"no answer for {0.4 / addresses:g} s"):
            fetch(remote(*[address] * addresses), tmp_path, timeout=0.4)
        assert 0.35 < time.monotonic() - started < 2
    assert files_in(tmp_path) == []


def test_a_name_that_is_never_resolved_is_given_up(server, tmp_path, monkeypatch):
    released = threading.Event()

    def resolve(*arguments, **keywords):
        released.wait(10)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"http://no\.such\.host/x: no answer for 0\.2 s"):
        fetch(remote("http://no.such.host/x"), tmp_path, timeout=0.2)
    assert time.monotonic() - started < 2
    released.set()
    with pytest.raises(DataError, match="Temporary failure in name resolution"):
        fetch(remote("http://no.such.host/x"), tmp_path)


def test_slowness_is_not_silence(server, tmp_path):
    # 0.6 s in all, never silent for as long as the 0.4 s allowed
    body = BODY[:6]
    assert fetch(remote(server.address + "/slow", body=body), tmp_path, timeout=0.4).read_bytes() == body


def test_concurrent_fetches_leave_one_whole_file(server, tmp_path):
    file = remote(server.address + "/together")  # answers neither before both have asked
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(file, tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "set" / "file.txt"] * 2
    assert paths[0].read_bytes() == BODY
    assert files_in(tmp_path) == ["file.txt"]


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "set").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"cache: cannot write to '.*set': "):
        fetch(remote(server.address + "/whole"), tmp_path)


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("RNN_JAX_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    assert cache_folder("~/given") == tmp_path / "home" / "given"
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("RNN_JAX_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "rnn_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home" / ".cache" / "rnn_jax"


def test_archives_are_read_in_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/text", BODY)
    (tmp_path / "a.gz").write_bytes(gzip.compress(BODY))
    (tmp_path / "a.txt").write_bytes(BODY)
    assert (
        content(tmp_path / "a.zip", "folder/text") == content(tmp_path / "a.gz") == content(tmp_path / "a.txt") == BODY
    )
    assert sorted(os.listdir(tmp_path)) == ["a.gz", "a.txt", "a.zip"]


def test_named_sets_are_complete():
    assert sorted(NAMED_SETS) == ["enwik8", "ptb", "shakespeare", "text8", "wikitext2"]
    for name, named in NAMED_SETS.items():
        assert named.name == name
        for part in filter(None, (named.train, named.valid, named.test)):
            assert part.file.path.startswith(name + "/")
            assert part.file.algorithm == "sha256"
            assert len(part.file.checksum) == 64
            assert (part.member is not None) == part.file.path.endswith(".zip")
