"""Version 4: a job that failed for good may be CLOSED."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "4", "3"

_STATES = "'REQUESTED', 'DISPATCHED', 'UNLEARNED', 'AUDITED', 'CERTIFIED', 'FAILED', 'CLOSED'"


def upgrade() -> None:
    """Let `jobs.state` be one more word; SQLite changes no constraint, so the table is made anew there."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("jobs_state_check", "jobs")
        op.create_check_constraint("jobs_state_check", "jobs", f"state IN ({_STATES})")
        return
    op.rename_table("jobs", "jobs_before")
    for index in ("ix_jobs_patient", "one_whole_withdrawal", "one_job_a_withdrawal"):
        op.drop_index(index, "jobs_before")
    columns = _columns()
    op.create_table("jobs", *columns, sa.CheckConstraint(f"state IN ({_STATES})"), sqlite_with_rowid=False)
    names = ", ".join(column.name for column in columns)
    op.execute(f"INSERT INTO jobs ({names}) SELECT {names} FROM jobs_before ORDER BY id")
    op.drop_table("jobs_before")
    op.create_index("ix_jobs_patient", "jobs", ["patient"])
    whole = sa.text("scope = 'patient'")
    op.create_index("one_whole_withdrawal", "jobs", ["patient", "turn"], unique=True, sqlite_where=whole)
    op.create_index("one_job_a_withdrawal", "jobs", ["patient", "turn", "scope", "records"], unique=True)


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, unique=True),
        sa.Column("patient", sa.Text, sa.ForeignKey("patients.id"), nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("scope", sa.Text, sa.CheckConstraint("scope IN ('patient', 'records')"), nullable=False),
        sa.Column("records", sa.JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("method", sa.Text),
        sa.Column("requested_at", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Text, nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
    ]
