"""A registry in a PostgreSQL database: how it is made, opened and checked, and what its errors mean.

Writers take turns by an advisory lock, so that what they read cannot change any more until they have written. Nothing
else is asked of the server than its defaults: one that is told not to flush (`fsync`) keeps no promise.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from server import guards, registry_url, schema
from server.registry_url import Remote
from shared.errors import DamagedError, WorkspaceError

_LOCK = 0x4C65746865  # "Lethe"; other programs' locks in the same database are their own
_SWEEP_MS = 500  # what removing a salt waits for those who read, and lets others wait behind it
_FORGETTING = ("salts", "patients", "jobs", "devices", "models")  # what `history.forget` changes
_SESSION = """
SET client_encoding = 'UTF8'; SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10;
SET tcp_keepalives_count = 3;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""  # a machine that is gone lets go of its lock within a minute; a commit is on the disk when it returns


@dataclass(frozen=True)
class PostgreSQL:
    """A database by its URL; see `server/database.py` for what it does."""

    remote: Remote

    def create(self) -> None:
        """Make an empty registry in an empty database."""
        opened = self.engine()
        try:
            with self.writing(opened) as connection:
                self._refuse_occupied(connection)
                schema.fill(connection, workspace=self.remote.id)
                guards.put_up(connection)
        finally:
            opened.dispose()

    def discard(self) -> None:
        """Empty the database again, if what is in it was made by `create` for this workspace."""
        opened = self.engine()
        try:
            with self.writing(opened) as connection:
                if _is_registry(connection) and schema.fact(connection, "workspace") == self.remote.id:
                    guards.take_down(connection)
                    guards.forget(connection)
                    schema.metadata.drop_all(connection)
        finally:
            opened.dispose()

    def refuse_occupied(self) -> None:
        """Refuse a database in which there is something."""
        opened = self.engine()
        try:
            with self.reading(opened) as connection:
                self._refuse_occupied(connection)
        finally:
            opened.dispose()

    def engine(self) -> sa.Engine:
        """Return an engine; what a server that restarted has cut off is opened anew by the next transaction."""
        try:
            made = sa.create_engine(self.remote.url, pool_pre_ping=True)
        except ImportError as error:
            raise WorkspaceError(
                f"registry {self} needs psycopg ({error}); install it: pip install 'lethe[postgresql]'"
            ) from error

        @sa.event.listens_for(made, "connect")
        def connect(raw: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
            raw.autocommit = True
            raw.execute(_SESSION)
            raw.autocommit = False

        return made

    def version(self, opened: sa.Engine) -> str:
        """Return the version of the registry, which must be this workspace's."""
        with self.reading(opened) as connection:
            if not _is_registry(connection):
                raise self._no_registry("it has no table 'meta'")
            version, owner = schema.fact(connection, "schema"), schema.fact(connection, "workspace")
        if owner != self.remote.id:
            raise self._no_registry(f"it belongs to workspace {owner}, this one is {self.remote.id}")
        if version is None:
            raise self._no_registry("it does not say which version it has")
        return version

    @contextmanager
    def reading(self, opened: sa.Engine) -> Iterator[Connection]:
        """Give a transaction that sees one state."""
        reader = opened.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with self._said_plainly(), reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, opened: sa.Engine) -> Iterator[Connection]:
        """Give the only write transaction."""
        # The lock is taken before the first look, and each statement after it sees what is committed by then.
        writer = opened.execution_options(isolation_level="READ COMMITTED", postgresql_readonly=False)
        with self._said_plainly(), writer.connect() as connection, connection.begin() as transaction:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(1000 * schema.BUSY_SECONDS)}")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield connection
            with self._said_plainly(committing=True):
                transaction.commit()

    @contextmanager
    def altering(self, opened: sa.Engine, *, version: str) -> Iterator[Connection]:  # noqa: ARG002 - no copy is made
        """Give a write transaction that may change tables, which PostgreSQL undoes like anything else."""
        with self.writing(opened) as connection:
            yield connection

    def sweep(self, opened: sa.Engine) -> bool:
        """Write the tables anew without the rows that nobody sees any more, and tell whether none was left behind."""
        unbound = opened.execution_options(isolation_level="AUTOCOMMIT")  # VACUUM runs in no transaction
        with self._said_plainly(), unbound.connect() as alone:
            alone.detach()  # its settings are nobody else's
            alone.exec_driver_sql(f"SET lock_timeout = {_SWEEP_MS}")
            for table in _FORGETTING:
                alone.exec_driver_sql(f"VACUUM (FULL) {table}")
                alone.exec_driver_sql(f"VACUUM {table}")  # notes the pages in which everybody sees every row
            names = ", ".join(f"'{table}'::regclass" for table in _FORGETTING)
            seen = f"SELECT bool_and(relpages = relallvisible) FROM pg_class WHERE oid IN ({names})"
            return bool(alone.exec_driver_sql(seen).scalar())

    def _refuse_occupied(self, connection: Connection) -> None:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise WorkspaceError(f"database {self} is encoded in {encoding}, expected UTF8: createdb --encoding=UTF8")
        if _is_registry(connection):
            raise WorkspaceError(
                f"database {self} holds a registry already, another workspace's or that of an init that was killed; "
                "a registry is never overwritten: name an empty database (createdb makes one)"
            )
        tables = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
        if found := connection.exec_driver_sql(tables).scalar():
            raise WorkspaceError(
                f"database {self} is not empty: it has {found} tables of something else; name an empty one"
            )

    @contextmanager
    def _said_plainly(self, *, committing: bool = False) -> Iterator[None]:
        """Turn the database's own errors into ones that say what to do; the transaction is undone by then."""
        try:
            yield
        except DBAPIError as error:
            raise self._plainly(error, committing=committing) from error

    def _plainly(self, error: DBAPIError, *, committing: bool) -> WorkspaceError:
        """Return what a person is told; never a row that an error quotes."""
        state = getattr(error.orig, "sqlstate", None) or ""
        said = getattr(getattr(error.orig, "diag", None), "message_primary", None) or str(error.orig)
        cause = said.strip().splitlines()[0] if said.strip() else type(error.orig).__name__
        if state == "55P03":
            return WorkspaceError(
                f"registry {self} stayed locked by another process for {schema.BUSY_SECONDS} s; nothing was changed, "
                "try again"
            )
        if error.connection_invalidated and committing:
            return WorkspaceError(
                f"the connection to registry {self} was lost ({cause}) while the change was made durable: it is done "
                "or it is not; look, or give the same command again, which changes nothing that is done"
            )
        if error.connection_invalidated or not state:
            return WorkspaceError(
                f"cannot reach registry {self}: {cause}; nothing was changed. Is the server running, and does it let "
                "you in? A password is read from PGPASSFILE or PGPASSWORD"
            )
        if state in ("42P01", "42703"):
            return self._no_registry(cause)
        return WorkspaceError(f"registry {self} refused: {cause}; nothing was changed")

    def _no_registry(self, seen: str) -> DamagedError:
        return DamagedError(
            f"database {self} is not the registry of this workspace ({seen}); it is left as it is: restore it from a "
            "backup, or put the workspace's own registry.json back"
        )

    def __str__(self) -> str:
        return self.remote.url


@contextmanager
def emptied_on_failure(path: Path) -> Iterator[PostgreSQL]:
    """See at once that a new workspace's database is empty, and empty it again where the block fails.

    Args:
        path: the file of the workspace that names the database; the block may move it.

    Raises:
        WorkspaceError: the database cannot be reached, or is not empty.
    """
    place = PostgreSQL(registry_url.read(path))
    place.refuse_occupied()
    try:
        yield place
    except BaseException:
        with suppress(WorkspaceError):  # what went wrong before is what is told
            place.discard()
        raise


def _is_registry(connection: Connection) -> bool:
    found = "SELECT to_regclass(quote_ident(current_schema()) || '.meta') IS NOT NULL"
    return bool(connection.exec_driver_sql(found).scalar())
