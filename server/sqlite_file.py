"""A registry in an SQLite file: how it is made, opened and checked, and what its errors mean."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from server import guards, schema
from server.opening import mode
from shared.errors import DamagedError, UnwritableError, WorkspaceError
from shared.fields import shown
from shared.files import flush_folder

POLL_S = 0.008


@dataclass(frozen=True)
class SQLiteFile:
    """A file, by its absolute path; see `server/database.py` for what it does."""

    path: Path

    def create(self) -> None:
        """Write an empty registry; the place must be free."""
        try:
            self.path.open("x").close()
        except FileExistsError:
            raise WorkspaceError(f"there is a file at {self.path} already; a registry is never overwritten") from None
        except OSError as error:
            raise WorkspaceError(f"cannot write registry {self.path}: {error.strerror}") from error
        opened = self.engine()
        try:
            with self._said_plainly(), closing(opened.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA journal_mode = WAL")  # the file keeps it
            with self.writing(opened) as connection:
                schema.fill(connection)
                guards.put_up(connection)
        except BaseException:
            self.path.unlink()
            raise
        finally:
            opened.dispose()

    def engine(self) -> sa.Engine:
        """Return an engine on an existing file, with SQLite's safe settings and explicit transactions."""
        made = sa.create_engine("sqlite://", creator=self._connect, poolclass=QueuePool, json_deserializer=self._json)

        @sa.event.listens_for(made, "begin")
        def begin(connection: sa.Connection) -> None:
            if connection.get_execution_options().get("writes"):
                _begin_writing(connection)
            else:
                connection.exec_driver_sql("BEGIN")

        return made

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?{mode(self.path)}",
            uri=True,
            timeout=schema.BUSY_SECONDS,
            isolation_level=None,  # the driver must not begin transactions of its own
            check_same_thread=False,  # the pool lends a connection to one thread at a time
        )
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _json(self, text: str) -> Any:
        """Return what a field of JSON holds, which is never a bare number or text."""
        try:
            value = json.loads(text)
        except (TypeError, ValueError):
            value = None
        if not isinstance(value, dict | list):
            raise self._damaged(f"a field is {shown(text)}, expected JSON")
        return value

    def version(self, opened: sa.Engine) -> str:
        """Return the version of a sound registry."""
        if not self.path.is_file():
            raise WorkspaceError(
                f"no registry at {self.path}; restore it from a backup, or make a new workspace with "
                "`lethe init --home NEW`"
            )
        with self.reading(opened) as connection:
            self._refuse_damage(connection)
            if not sa.inspect(connection).has_table("meta"):
                raise self._damaged("it has no table 'meta'")
            version = schema.fact(connection, "schema")
        if not isinstance(version, str):  # SQLite keeps in a column of text what was put there
            raise self._damaged("it does not say which version it has")
        return version

    def _refuse_damage(self, connection: sa.Connection) -> None:
        """Compare tables with their indexes, too: a bit in a withdrawal makes it another one, or none."""
        damage = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
        if damage != "ok":
            raise self._damaged(str(damage))
        if lost := connection.exec_driver_sql("PRAGMA foreign_key_check").first():
            raise self._damaged(f"a row of table {lost[0]} refers to none of {lost[2]}")
        log = self.path.with_name(f"{self.path.name}-wal")  # while there is one, the file is not all there is
        if log.exists() and log.stat().st_size:
            return
        if self.path.stat().st_size % connection.exec_driver_sql("PRAGMA page_size").scalar_one():
            raise self._damaged("its last page is cut off")

    @contextmanager
    def reading(self, opened: sa.Engine) -> Iterator[sa.Connection]:
        """Give a transaction that sees one state."""
        with self._said_plainly(), opened.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, opened: sa.Engine) -> Iterator[sa.Connection]:
        """Give the only write transaction."""
        with self._said_plainly(), opened.execution_options(writes=True).begin() as connection:
            yield connection

    @contextmanager
    def altering(self, opened: sa.Engine, *, version: str) -> Iterator[sa.Connection]:
        """Give a write transaction that may change tables; the file as it was stays beside it, unless the block fails.

        The copy is whole before anything changes and has its name before the change is durable; one of an earlier
        upgrade gives way to it only then.
        """
        kept = copy_of(self.path, version)
        made = kept.with_name(f"{kept.name}.partial")
        with self._said_plainly(), opened.connect() as connection:
            # A table that is made anew and renamed is gone in between; nothing is checked until the end.
            connection.connection.driver_connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[union-attr]
            connection.detach()  # nobody else is to get a connection like this
            try:
                with connection.execution_options(writes=True).begin():
                    self._copy_to(made)
                    yield connection
                    if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
                        raise self._damaged(f"{len(broken)} rows refer to none, the first in {broken[0][0]}")
                    made = made.replace(kept)
                    flush_folder(kept.parent)
            except BaseException:
                made.unlink(missing_ok=True)
                raise

    def _copy_to(self, copy: Path) -> None:
        copy.unlink(missing_ok=True)  # of an upgrade that was killed
        now = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)
        with closing(now), closing(sqlite3.connect(copy)) as kept:
            now.backup(kept)

    def sweep(self, opened: sa.Engine) -> bool:
        """Empty the write-ahead log, unless somebody reads from it."""
        with self._said_plainly(), closing(opened.raw_connection()) as raw:
            busy, *_ = raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        """Turn the database's own errors into ones that say what to do; the transaction is undone by then."""
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            cause = str(getattr(error, "orig", None) or error)
            if "locked" in cause:
                raise WorkspaceError(
                    f"registry {self.path} stayed locked by another process for {schema.BUSY_SECONDS} s; nothing was "
                    "changed, try again"
                ) from error
            if "readonly" in cause:
                raise UnwritableError(
                    f"cannot write registry {self.path}: it or its folder is read-only; nothing was changed. Make them "
                    "writable, or use a copy of the workspace that is"
                ) from error
            if "full" in cause or "disk I/O" in cause or "unable to open" in cause:
                raise WorkspaceError(
                    f"cannot use registry {self.path}: {cause}; nothing was changed. SQLite writes beside it even to "
                    "read: free space, or check the folder's permissions"
                ) from error
            if "malformed" in cause or "not a database" in cause:
                raise self._damaged(cause) from error
            raise WorkspaceError(f"registry {self.path} refused: {cause}; nothing was changed") from error

    def __str__(self) -> str:
        return str(self.path)

    def _damaged(self, seen: str) -> DamagedError:
        return DamagedError(
            f"registry {self.path} is damaged or is no registry ({seen}); it is left as it is: "
            "restore it from a backup, or make a new workspace with `lethe init --home NEW`"
        )


def _begin_writing(connection: sa.Connection) -> None:
    """Take the lock before the first look, so that a writer decides on what nobody can change any more.

    SQLite's own waiting tries ever more rarely, so that of many who wait the newest come first and the oldest never.
    Here who has waited longer tries more often.
    """
    raw: sqlite3.Connection = connection.connection.dbapi_connection  # type: ignore[assignment]
    began, waited = time.monotonic(), 0.0
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        while not _begun(raw, last=waited >= schema.BUSY_SECONDS):
            time.sleep(POLL_S / (1 + 10 * waited))
            waited = time.monotonic() - began
    finally:
        raw.execute(f"PRAGMA busy_timeout = {int(1000 * schema.BUSY_SECONDS)}")


def _begun(raw: sqlite3.Connection, *, last: bool) -> bool:
    try:
        raw.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if last or "locked" not in str(error):
            raise
        return False
    return True


def copy_of(path: Path, version: str) -> Path:
    """Return where the file of an earlier version is kept."""
    return path.with_name(f"{path.name}.version-{version}")
