"""Which database a registry is in, and what Lethe asks of either."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy import Connection

from server import registry_url
from server.postgresql import PostgreSQL
from server.sqlite_file import SQLiteFile


class Database(Protocol):
    """A place for one registry; errors are `WorkspaceError`s that say what to do, and nothing is changed then."""

    def create(self) -> None:
        """Make an empty registry where nothing may be."""

    def engine(self) -> sa.Engine:
        """Return what connections come from; nothing is opened yet."""

    def version(self, opened: sa.Engine) -> str:
        """Return the version of its tables; what is damaged or no registry is refused."""

    def reading(self, opened: sa.Engine) -> AbstractContextManager[Connection]:
        """Give a transaction that sees one state, whatever others write meanwhile."""

    def writing(self, opened: sa.Engine) -> AbstractContextManager[Connection]:
        """Give the only write transaction: durable when the block has ended well, else undone."""

    def altering(self, opened: sa.Engine, *, version: str) -> AbstractContextManager[Connection]:
        """Give a write transaction that may change tables of this version; an SQLite file is copied first."""

    def sweep(self, opened: sa.Engine) -> bool:
        """Remove what is left of destroyed salts; return False where somebody still reads it, to try again later."""


def at(path: Path) -> Database:
    """Return the database of a workspace, by the file that is it or names it.

    Raises:
        WorkspaceError: the file that names it is missing or damaged.
    """
    return PostgreSQL(registry_url.read(path)) if path.name == registry_url.FILE else SQLiteFile(path)
