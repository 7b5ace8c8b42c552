"""Version 3: consent can be given again. A withdrawal has a turn, what ends it is a renewal, a job has its turn too.

Of what version 2 withdrew, all was taken back from the first consent. Nothing older than this is in PostgreSQL.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "3", "2"


def upgrade() -> None:
    """Number consents from 1, make `renewals`, and make `withdrawals` and the indexes of `jobs` anew."""
    op.add_column("patients", sa.Column("consents", sa.Integer, nullable=False, server_default="1"))
    op.add_column("jobs", sa.Column("turn", sa.Integer, nullable=False, server_default="1"))
    op.rename_table("withdrawals", "withdrawals_before")
    op.create_table(
        "withdrawals",
        *_key(),
        sa.ForeignKeyConstraint(["patient", "record"], ["records.patient", "records.id"]),
    )
    op.execute("INSERT INTO withdrawals SELECT patient, record, 1 FROM withdrawals_before")
    op.drop_table("withdrawals_before")
    ended = ["withdrawals.patient", "withdrawals.record", "withdrawals.turn"]
    op.create_table("renewals", *_key(), sa.ForeignKeyConstraint(["patient", "record", "turn"], ended))
    op.drop_index("one_whole_withdrawal", "jobs")
    op.drop_index("one_job_a_withdrawal", "jobs")
    whole = sa.text("scope = 'patient'")
    op.create_index("one_whole_withdrawal", "jobs", ["patient", "turn"], unique=True, sqlite_where=whole)
    op.create_index("one_job_a_withdrawal", "jobs", ["patient", "turn", "scope", "records"], unique=True)


def _key() -> tuple[sa.Column[str], sa.Column[str], sa.Column[int]]:
    return (
        sa.Column("patient", sa.Text, primary_key=True),
        sa.Column("record", sa.Text, primary_key=True),
        sa.Column("turn", sa.Integer, primary_key=True),
    )
