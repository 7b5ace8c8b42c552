"""Downloads PTB-XL 1.0.3 from PhysioNet: in parallel, resumable, every file checked against its sha256.

A file has its name only once its bytes are right; what is under way is `NAME.part`. Running it again continues.
Reading the data is `shared/ptbxl.py`'s. Licence and citation of the data are in the folder it writes.
"""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx

from shared.errors import DataError, UsageError
from shared.files import write_atomically
from shared.ptbxl import CHECKSUMS, checksums

PHYSIONET_URL = "https://physionet.org/files/ptb-xl/1.0.3/"
CONNECTIONS = 4  # PhysioNet is a public service
ATTEMPTS = 6  # in a row without a new byte
Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]


def fetch(
    folder: Path,
    *,
    base_url: str = PHYSIONET_URL,
    hz: int | None = None,
    progress: Progress | None = None,
    pause_s: float = 1.0,
) -> int:
    """Bring `folder` to what the server's SHA256SUMS.txt lists, and return how many files were downloaded.

    Args:
        folder: created when missing; files that are right already stay.
        base_url: where SHA256SUMS.txt and the files are.
        hz: 500 or 100 leaves the other rate's records out; None takes both.
        progress: `progress(files)` opens a bar whose function is told how many files are done.
        pause_s: before the first repetition after a failure; doubled at every further one.

    Raises:
        DataError: the server refuses, breaks off again and again, or sends other bytes than it lists; or the
            folder cannot be written. Running again continues.
        UsageError: another `hz`.
    """
    if hz not in (None, 500, 100):
        raise UsageError(f"{hz} Hz was asked for, expected 500 or 100")
    limits = httpx.Limits(max_connections=CONNECTIONS)
    try:
        with httpx.Client(base_url=base_url, timeout=30, limits=limits, follow_redirects=True) as client:
            return _fetch(_Source(client, pause_s), folder, hz, progress or (lambda _: nullcontext(lambda _: None)))
    except OSError as error:
        raise DataError(
            f"cannot write to {folder} ({error.strerror or error}), expected room for the data set (3 GB for both "
            "rates); make room and run again, it continues"
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:  # what repeating would not mend
        raise DataError(f"{base_url} cannot be fetched from ({error}), expected PTB-XL; check the address") from error


def _fetch(source: "_Source", folder: Path, hz: int | None, progress: Progress) -> int:
    """Fetch the list, then what it lists."""
    folder.mkdir(parents=True, exist_ok=True)
    text = source.text(CHECKSUMS)
    other = {500: "records100/", 100: "records500/"}.get(hz or 0)
    listed = {name: sha for name, sha in checksums(text).items() if not other or not name.startswith(other)}
    write_atomically(folder / CHECKSUMS, text.encode())
    with progress(len(listed)) as tell:
        return _download_all(source, folder, listed, tell)


@dataclass(frozen=True)
class _Source:
    """A server that may fail for a while."""

    client: httpx.Client
    pause_s: float
    stopped: threading.Event = field(default_factory=threading.Event)

    def text(self, name: str) -> str:
        """Return a small file's text."""
        attempt = 0
        while True:
            try:
                return _accepted(self.client.get(quote(name)), name).text
            except httpx.TransportError as error:
                attempt += 1
                self._wait(name, attempt, error)

    def download(self, name: str, sha256: str, target: Path) -> None:
        """Fetch one file into `target`, continuing `target.part`; a wrong checksum is tried once more from zero."""
        part = target.with_name(f"{target.name}.part")
        for last in (False, True):
            self._complete(name, part)
            seen = _sha256(part)
            if seen == sha256:
                part.replace(target)
                return
            part.unlink()
            if last:
                raise DataError(
                    f"{name} arrived with sha256 {seen[:12]}…, expected {sha256[:12]}… from {CHECKSUMS}; the file "
                    "changed on the server or on the way: run again later"
                )

    def _complete(self, name: str, part: Path) -> None:
        """Fetch the bytes that `part` lacks; attempts are counted from the last new byte."""
        attempt = 0
        while True:
            size = part.stat().st_size if part.exists() else 0
            try:
                self._stream(name, part, size)
                return
            except httpx.TransportError as error:
                grown = part.exists() and part.stat().st_size > size
                attempt = 1 if grown else attempt + 1
                self._wait(name, attempt, error)

    def _stream(self, name: str, part: Path, size: int) -> None:
        """Append to `part` from byte `size` on, or write it anew where the server does not continue."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
        with self.client.stream("GET", quote(name), headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and size:
                return  # nothing is missing; the checksum decides
            _accepted(response, name)
            continues = response.headers.get("Content-Range", "").startswith(f"bytes {size}-")
            with part.open("ab" if size and continues else "wb") as file:
                for block in response.iter_bytes():
                    if self.stopped.is_set():
                        raise DataError(f"{name} was given up because another file failed; run again to continue")
                    file.write(block)

    def _wait(self, name: str, attempt: int, error: httpx.TransportError) -> None:
        hopeless = attempt >= ATTEMPTS or isinstance(error, httpx.UnsupportedProtocol)
        if hopeless or self.stopped.wait(min(self.pause_s * 2 ** (attempt - 1), 60)):
            raise DataError(
                f"{name} could not be fetched from {self.client.base_url} in {attempt} attempt(s) "
                f"({type(error).__name__}: {error}); check the connection and run again, it continues"
            ) from error


def _accepted(response: httpx.Response, name: str) -> httpx.Response:
    """Return the response if the server gave the file; a busy server counts as a broken connection."""
    if response.status_code in (408, 425, 429, 500, 502, 503, 504):
        raise httpx.RemoteProtocolError(f"the server answered {response.status_code}")
    if response.status_code not in (200, 206):
        raise DataError(
            f"the server answered {response.status_code} for {response.url}, expected {name}; check the address"
        )
    return response


def _download_all(source: _Source, folder: Path, listed: dict[str, str], tell: Callable[[int], None]) -> int:
    """Bring every listed file into the folder; the first failure stops the others."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = [pool.submit(_bring, source, folder / name, name, sha) for name, sha in listed.items()]
        downloaded = 0
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                downloaded += future.result()
                tell(done)
        except BaseException:  # Ctrl-C too: let no thread go on for minutes
            source.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return downloaded


def _bring(source: _Source, target: Path, name: str, sha256: str) -> int:
    """Return 1 if the file had to be downloaded, 0 if it was right already."""
    if target.is_file() and _sha256(target) == sha256:
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    source.download(name, sha256, target)
    return 1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
