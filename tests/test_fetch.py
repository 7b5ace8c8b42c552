"""Downloading PTB-XL, against a real HTTP server that misbehaves in the ways servers do."""

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ptbxl_files import room_for

from shared.errors import DataError, UsageError
from simulations.fetch import fetch

FILES = {
    "ptbxl_database.csv": b"ecg_id\n1\n",
    "records100/00000/00001_lr.dat": b"slow" * 500,
    "records500/00000/00001_hr.dat": bytes(range(256)) * 400,
    "records500/00000/00001_hr.hea": b"00001_hr 12 500 5000\n",
    "a name with spaces.txt": b"",
}
SIGNAL = "records500/00000/00001_hr.dat"


def sums(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in files.items()).encode()


class Server(ThreadingHTTPServer):
    """Serves `files`; the other attributes say how it misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES, **{"SHA256SUMS.txt": sums(FILES)})
        self.asked: list[tuple[str, str | None]] = []  # path, Range
        self.drop_after: dict[str, list[int]] = {}  # bytes of each of the next answers, before the line goes dead
        self.corrupt: Counter[str] = Counter()  # how many answers come with a wrong byte
        self.status: dict[str, list[int]] = {}  # of the next answers
        self.ranges = True
        self.url = f"http://127.0.0.1:{self.server_port}/data/"

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.removeprefix("/data/").replace("%20", " ")
        wanted = self.headers.get("Range")
        self.server.asked.append((name, wanted))
        status = self.server.status.get(name)
        if status or name not in self.server.files:
            return self.answer(status.pop(0) if status else 404, b"no")
        data = self.server.files[name]
        if self.server.corrupt[name]:
            self.server.corrupt[name] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start and start >= len(data):
            return self.answer(416, b"")
        extra = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        drops = self.server.drop_after.get(name)
        return self.answer(206 if start else 200, data[start:], extra, keep=drops.pop(0) if drops else None)

    def answer(self, status: int, body: bytes, extra: dict[str, str] | None = None, keep: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:keep])
        if keep is not None:
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(server: Server, folder: Path, **options) -> int:
    return fetch(folder, base_url=server.url, pause_s=0.001, **options)


def test_everything_the_server_lists_arrives(server, tmp_path):
    assert run(server, tmp_path / "new") == len(FILES)
    assert content(tmp_path / "new") == server.files


def test_what_is_right_already_is_not_fetched_again(server, tmp_path):
    run(server, tmp_path)
    (tmp_path / SIGNAL).write_bytes(b"half")
    server.asked.clear()
    assert run(server, tmp_path) == 1
    assert [name for name, _ in server.asked] == ["SHA256SUMS.txt", SIGNAL]
    assert content(tmp_path) == server.files


def test_one_rate_leaves_the_other_out(server, tmp_path):
    assert run(server, tmp_path, hz=500) == 4
    assert not (tmp_path / "records100").exists()
    with pytest.raises(UsageError, match="expected 500 or 100"):
        run(server, tmp_path, hz=50)


def test_a_dropped_connection_is_continued_where_it_broke(server, tmp_path):
    server.drop_after[SIGNAL] = [1000, 2000]
    run(server, tmp_path)
    ranges = [wanted for name, wanted in server.asked if name == SIGNAL]
    assert ranges == [None, "bytes=1000-", "bytes=3000-"]
    assert content(tmp_path) == server.files


def test_a_later_run_continues_an_earlier_ones_part(server, tmp_path):
    part = tmp_path / f"{SIGNAL}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(FILES[SIGNAL][:5000])
    run(server, tmp_path)
    assert (SIGNAL, "bytes=5000-") in server.asked
    assert content(tmp_path) == server.files


@pytest.mark.parametrize("left", [FILES[SIGNAL], FILES[SIGNAL] + b"more", b"something else entirely"])
def test_whatever_part_was_left_the_file_is_right_in_the_end(server, tmp_path, left):
    part = tmp_path / f"{SIGNAL}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    run(server, tmp_path)
    assert content(tmp_path) == server.files


def test_a_server_without_ranges_is_asked_from_the_start(server, tmp_path):
    server.ranges = False
    server.drop_after[SIGNAL] = [1000]
    run(server, tmp_path)
    assert content(tmp_path) == server.files
    assert [wanted for name, wanted in server.asked if name == SIGNAL] == [None, "bytes=1000-"]


def test_a_file_that_arrives_corrupt_once_is_fetched_again(server, tmp_path):
    server.corrupt[SIGNAL] = 1
    run(server, tmp_path)
    assert content(tmp_path) == server.files


def test_a_file_that_stays_corrupt_is_an_error_and_gets_no_name(server, tmp_path):
    server.corrupt[SIGNAL] = 99
    with pytest.raises(DataError, match=f"{SIGNAL} arrived with sha256"):
        run(server, tmp_path)
    assert not (tmp_path / SIGNAL).exists()
    server.corrupt.clear()
    run(server, tmp_path)
    assert content(tmp_path) == server.files


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = {SIGNAL: [503, 429], "SHA256SUMS.txt": [502]}
    run(server, tmp_path)
    assert content(tmp_path) == server.files


def test_a_server_that_never_recovers_is_a_clear_error(server, tmp_path):
    server.status = {SIGNAL: [503] * 99}
    with pytest.raises(DataError, match=r"6 attempt\(s\).*answered 503.*run again, it continues"):
        run(server, tmp_path)


def test_a_line_that_always_breaks_is_a_clear_error_and_the_part_stays(server, tmp_path):
    server.drop_after[SIGNAL] = [700] + [0] * 99
    with pytest.raises(DataError, match="could not be fetched"):
        run(server, tmp_path)
    assert (tmp_path / f"{SIGNAL}.part").read_bytes() == FILES[SIGNAL][:700]


def test_a_missing_file_or_list_is_an_error_at_once(server, tmp_path):
    del server.files[SIGNAL]
    with pytest.raises(DataError, match=f"404 for .*{SIGNAL}"):
        run(server, tmp_path)
    with pytest.raises(DataError, match=r"404 for .*SHA256SUMS"):
        fetch(tmp_path, base_url=f"{server.url}elsewhere/", pause_s=0.001)


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/", "http://127.0.0.1:9/", "http://[", ""])
def test_an_address_that_does_not_work_is_a_clear_error(tmp_path, url):
    with pytest.raises(DataError, match="check the"):
        fetch(tmp_path, base_url=url, pause_s=0.001)


def test_a_list_that_names_files_outside_the_folder_is_refused(server, tmp_path):
    server.files["SHA256SUMS.txt"] = f"{'0' * 64} ../escaped\n".encode()
    with pytest.raises(DataError, match="within the folder"):
        run(server, tmp_path / "in")
    assert not (tmp_path / "escaped").exists()


def test_progress_tells_the_number_of_files_and_how_many_are_done(server, tmp_path):
    told: list[int] = []

    @contextmanager
    def bar(total: int):
        told.append(total)
        yield told.append

    run(server, tmp_path, progress=bar)
    assert told == [5, 1, 2, 3, 4, 5]


def test_an_interruption_stops_all_connections_and_leaves_no_half_file(server, tmp_path):
    @contextmanager
    def bar(_: int):
        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        yield interrupt

    with pytest.raises(KeyboardInterrupt):
        run(server, tmp_path, progress=bar)
    for name, data in content(tmp_path).items():
        assert name.endswith(".part") or data == server.files[name]
    assert threading.active_count() <= 3 + len(server.files)  # the server's own


def test_a_full_disk_is_a_clear_error(server, tmp_path):
    with room_for(20_000), pytest.raises(DataError, match="make room and run again"):
        run(server, tmp_path)
    assert not (tmp_path / SIGNAL).exists()
    run(server, tmp_path)
    assert content(tmp_path) == server.files
