"""Fetching a public file: patiently, once, and only if its checksum is right."""

import dataclasses
import gzip
import hashlib
import io
import os
import threading
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from pathlib import Path

from rnn_jax.data.errors import DataError

# Some hosts turn away the default name of Python's client.
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; rnn_jax)"}


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """One public file.

    Attributes:
        path: where it lies in the cache folder, such as "ptb/ptb.train.txt".
        addresses: where it is published, tried in this order.
        size: its length in bytes.
        checksum: its digest, in hexadecimal.
        algorithm: how the digest was computed; a name known to hashlib.
    """

    path: str
    addresses: tuple[str, ...]
    size: int
    checksum: str
    algorithm: str = "sha256"


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """The folder of fetched files: `cache`, else $RNN_JAX_CACHE, else rnn_jax in $XDG_CACHE_HOME, else in ~/.cache."""
    chosen = cache or os.environ.get("RNN_JAX_CACHE")
    if not chosen:
        chosen = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "rnn_jax"
    return Path(os.path.expanduser(chosen))


def fetch(
    file: RemoteFile,
    cache: str | os.PathLike[str] | None = None,
    timeout: float = 20.0,
    argument: str = "corpus",
) -> Path:
    """The path of `file` in the cache, where it is fetched to unless it lies there already.

    A fetch writes to a file of its own beside the target, which it then replaces in one step: concurrent fetches and
    interrupted ones leave either nothing or the whole file. A cached file whose checksum is wrong is fetched anew.

    Args:
        file: what to fetch.
        cache: the cache folder; None: see `cache_folder`.
        timeout: seconds without a single byte after which the fetch is given up, shared by all addresses.
        argument: what the file was given as, to name it in an error.

    Raises:
        DataError: nothing could be fetched (what, from where, why, the cache, how to pass a local file), or the
            checksum is wrong (expected and found), or the cache cannot be written.
    """
    target = cache_folder(cache) / file.path
    if target.is_file() and _digest(target, file.algorithm) == file.checksum:
        return target
    problems = []
    for address in file.addresses:
        # Not a tempfile: those are private to their user, and a cache may be shared.
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            output = open(part, "xb")  # noqa: SIM115 (the transfer closes it)
        except OSError as error:
            raise DataError(f"cache: cannot write to {str(target.parent)!r}: {error.strerror}") from None
        try:
            problem = _download(address, output, file.size, timeout / len(file.addresses))
            if problem is None:
                found = _digest(part, file.algorithm)
                if found == file.checksum:
                    part.replace(target)
                    return target
                problem = f"refused: expected {file.algorithm} {file.checksum}, found {found}"
            problems.append(f"{address}: {problem}")
        finally:
            part.unlink(missing_ok=True)
    raise DataError(
        f"{argument}: could not fetch {file.path} ({file.size / 1e6:.1f} MB) from {'; '.join(problems)}; the cache is "
        f"{str(cache_folder(cache))!r}; without a network, pass a local file as --{argument}=PATH"
    )


def content(path: Path, member: str | None = None) -> bytes:
    """The bytes of a file: of one member of a .zip, of an unpacked .gz, of any other as it is."""
    if member is not None:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


class _Transfer(threading.Thread):
    """Copies one address to one open file.

    A thread, because the time that looking up a host's name takes cannot be limited; who waits may walk away.
    """

    def __init__(self, address: str, output: io.BufferedWriter, size: int, patience: float):
        super().__init__(daemon=True)
        self.address, self.output, self.size, self.patience = address, output, size, patience
        self.received = 0
        self.last_progress = time.monotonic()
        self.problem: str | None = None
        self.abandoned = False

    def run(self):
        with self.output:
            try:
                self._copy()
            except urllib.error.HTTPError as error:
                self.problem = f"HTTP status {error.code} {error.reason}"
                error.close()
            except Exception as error:  # a thread that dies silently would look like one that waits
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    self.problem = _silence(self.patience)
                else:
                    self.problem = str(getattr(reason, "strerror", None) or reason or type(error).__name__)

    def _copy(self):
        request = urllib.request.Request(self.address, headers=_HEADERS)
        with urllib.request.urlopen(request, timeout=self.patience) as response:
            while not self.abandoned and (piece := response.read1(1 << 16)):
                self.output.write(piece)
                self.received += len(piece)
                self.last_progress = time.monotonic()
                if self.received > self.size:
                    self.problem = f"refused: expected {self.size} bytes, found more"
                    return
        if self.received < self.size:
            self.problem = f"ended early: expected {self.size} bytes, found {self.received}"


def _download(address: str, output: io.BufferedWriter, size: int, patience: float) -> str | None:
    """Copy an address to an open file and close it; returns what went wrong, in words, or None."""
    transfer = _Transfer(address, output, size, patience)
    transfer.start()
    try:
        while transfer.is_alive():
            left = transfer.last_progress + patience - time.monotonic()
            if left <= 0:
                return _silence(patience)
            transfer.join(left)
    finally:
        transfer.abandoned = True
    return transfer.problem


def _silence(patience: float) -> str:
    return f"no answer for {patience:g} s"
