"""Brings an older registry up to the present version, by the files of `server/revisions/`.

Alembic finds their order and does what they say. Which version a registry has stays where it was, in its table `meta`.
"""

from collections.abc import Sequence
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

from server import database, guards, schema
from shared.errors import WorkspaceError

REVISIONS = Path(__file__).parent / "revisions"


def upgrade(path: Path, *, revisions: Sequence[Path] = (REVISIONS,)) -> tuple[str, str]:
    """Bring the registry at `path` up to date, all or nothing; an SQLite file is copied beside first.

    Args:
        path: as for `Registry.open`.
        revisions: folders with one file a version.

    Returns:
        The versions it had and has, which are the same when there was nothing to do.

    Raises:
        WorkspaceError: it is newer, no way leads from its version to this one, or its rules were taken away.
    """
    where = database.at(path.absolute())
    opened = where.engine()
    try:
        before = where.version(opened)
        if before == schema.VERSION:
            return before, before
        steps = _steps(before, revisions, name=str(where))
        with where.altering(opened, version=before) as connection:
            if schema.fact(connection, "schema") != before:
                raise WorkspaceError(f"somebody else has just changed the version of registry {where}; look again")
            _refuse_unguarded(connection, str(where))
            guards.take_down(connection)
            with Operations.context(MigrationContext.configure(connection)):
                for step in steps:
                    step.module.upgrade()
            guards.put_up(connection)
            schema.note(connection, "schema", schema.VERSION)
    finally:
        opened.dispose()
    return before, schema.VERSION


def _steps(before: str, revisions: Sequence[Path], *, name: str) -> list[Script]:
    """Return the revisions that lead from a version to the present one, the first to do first."""
    first, *others = map(str, revisions)
    known = ScriptDirectory(first, version_locations=[first, *others])
    if before not in {script.revision for script in known.walk_revisions()}:
        raise WorkspaceError(
            f"registry {name} has schema version {before}, and this Lethe knows no way from it to version "
            f"{schema.VERSION}; use the Lethe that made it"
        )
    return list(known.iterate_revisions(schema.VERSION, before))[::-1]


def _refuse_unguarded(connection: Connection, name: str) -> None:
    """Refuse a registry whose history could be rewritten: putting the rules up again would hide it."""
    if gone := guards.missing(connection):
        raise WorkspaceError(
            f"the rules {', '.join(gone)} of registry {name} were taken away, and nothing was changed: compare it with "
            "a backup, by `lethe ledger verify` of the Lethe that made it"
        )
