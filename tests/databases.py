"""Registries of tests in either database: an SQLite file, or one of a PostgreSQL server of the session's own."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from server import database, guards, registry_url

REFUSED = (sqlite3.IntegrityError, psycopg.errors.RaiseException)
USER = "lethe"
_numbers = count()


def programs() -> Path | None:
    """Return where the newest PostgreSQL of this machine has its programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    anywhere = shutil.which("initdb")
    return found[-1].parent if found else Path(anywhere).parent if anywhere else None


@dataclass(frozen=True)
class Cluster:
    """A running server; its socket is in `folder`, and it listens nowhere else."""

    folder: Path

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def by_hand(self, name: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.folder), user=USER, dbname=name, autocommit=True)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the name of an empty database; it is gone afterwards."""
        name = f"registry_{next(_numbers)}"
        with self.by_hand() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        yield name
        with self.by_hand() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def cluster(bin_folder: Path) -> Iterator[Cluster]:
    """Run a new server until the block ends, or this process; PostgreSQL refuses to be run by root."""
    folder = Path(tempfile.mkdtemp(prefix="lethe-postgresql-"))  # short: the name of a socket is
    other = ["--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.getuid() == 0 else []
    run, data = ["setpriv", "--pdeathsig", "KILL", *other] if shutil.which("setpriv") else [], folder / "data"
    if other:
        shutil.chown(folder, "postgres", "postgres")
    try:
        made = ["--auth", "trust", "--username", USER, "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        subprocess.run([*run, bin_folder / "initdb", "-D", data, *made], check=True, capture_output=True, cwd=folder)
        with (folder / "log").open("w") as log:
            quickly = ["-c", "fsync=off", "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
            server = subprocess.Popen([*run, bin_folder / "postgres", "-D", data, *quickly], stderr=log, cwd=folder)
        try:
            _wait_for(Cluster(folder), server)
            yield Cluster(folder)
        finally:
            server.terminate()
            server.wait()
    finally:
        shutil.rmtree(folder)


def _wait_for(running: Cluster, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(psycopg.OperationalError):
            running.by_hand().close()
            return
        time.sleep(0.05)
    pytest.fail(f"PostgreSQL did not start: {(running.folder / 'log').read_text()[-500:]}")


@contextmanager
def by_hand(path: Path) -> Iterator[Any]:
    """Give a connection of the database's own driver, past the registry; what it did is kept."""
    if path.name == registry_url.FILE:
        with psycopg.connect(_dsn(path)) as connection:
            yield connection
    else:
        with closing(sqlite3.connect(path)) as database_, database_:
            yield database_


def _dsn(path: Path) -> str:
    return registry_url.read(path).url.replace("+psycopg", "")


def on_disk(path: Path) -> bytes:
    """Return all bytes of the registry's files, without those of PostgreSQL's write-ahead log."""
    if path.name != registry_url.FILE:
        return b"".join(one.read_bytes() for one in sorted(path.parent.glob("registry.db*")))
    with psycopg.connect(_dsn(path), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        where = "SELECT current_setting('data_directory'), oid FROM pg_database WHERE datname = current_database()"
        (folder, oid) = connection.execute(where).fetchone() or ("", "")
    files = (Path(folder) / "base" / str(oid)).iterdir()
    return b"".join(one.read_bytes() for one in sorted(files) if one.is_file())


def rewrite(path: Path, *statements: str, put_back: bool = False) -> None:
    """Do what somebody can who has the database: take the rules away, rewrite, and perhaps put them back."""
    opened = database.at(path).engine()
    with opened.begin() as connection:
        guards.take_down(connection)
        for statement in statements:
            connection.exec_driver_sql(statement)
        if put_back:
            guards.put_up(connection)
    opened.dispose()
