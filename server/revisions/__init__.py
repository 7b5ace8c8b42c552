"""How the registry's tables became what they are: one file a version, in Alembic's form; `server/upgrade.py` runs them.

To change a table, change it in `server/schema.py` with its VERSION, and add a file here that does the same to a
registry of the version before:

    revision, down_revision = "3", "2"

    def upgrade() -> None:
        op.add_column("jobs", sa.Column("turn", sa.Integer, nullable=False, server_default="1"))

It runs in one transaction, in SQLite without foreign keys until its end, and with the triggers of `server/guards.py`
down: they are put up afterwards as they then are, those of a new append-only table too. What SQLite cannot alter
(a primary key, a CHECK): rename the table, create the new one, copy, drop the old one, and make its
indexes again. Write the tables out: what `server/schema.py` says changes with the next version.
"""
