"""Version 3: consent can be given again. A withdrawal has a turn, what ends it is a renewal, and a job has its turn, too.

Of what version 2 withdrew, all was taken back from the first consent.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "3", "2"


def upgrade() -> None:
    """Number consents from 1, make `renewals`, and make `withdrawals` and the indexes of `jobs` anew."""
    one = {"nullable": False, "server_default": "1"}
    op.add_column("patients", sa.Column("consents", sa.Integer, **one))
    op.add_column("jobs", sa.Column("turn", sa.Integer, **one))
    _withdrawals()
    op.create_table(
        "renewals",
        sa.Column("patient", sa.Text, primary_key=True),
        sa.Column("record", sa.Text, primary_key=True),
        sa.Column("turn", sa.Integer, primary_key=True),
        sa.ForeignKeyConstraint(
            ["patient", "record", "turn"], ["withdrawals.patient", "withdrawals.record", "withdrawals.turn"]
        ),
    )
    op.drop_index("one_whole_withdrawal", "jobs")
    op.drop_index("one_job_a_withdrawal", "jobs")
    whole = sa.text("scope = 'patient'")
    op.create_index(
        *("one_whole_withdrawal", "jobs", ["patient", "turn"]),
        unique=True,
        sqlite_where=whole,
        postgresql_where=whole,
    )
    records = "records" if op.get_bind().dialect.name == "sqlite" else sa.text("CAST(records AS TEXT)")
    op.create_index("one_job_a_withdrawal", "jobs", ["patient", "turn", "scope", records], unique=True)


def _withdrawals() -> None:
    """Make the table anew with its turn in the key."""
    op.rename_table("withdrawals", "withdrawals_before")
    op.create_table(
        "withdrawals",
        sa.Column("patient", sa.Text, primary_key=True),
        sa.Column("record", sa.Text, primary_key=True),
        sa.Column("turn", sa.Integer, primary_key=True),
        sa.ForeignKeyConstraint(["patient", "record"], ["records.patient", "records.id"]),
    )
    op.execute("INSERT INTO withdrawals SELECT patient, record, 1 FROM withdrawals_before")
    op.drop_table("withdrawals_before")
