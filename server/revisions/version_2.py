"""Version 2, where the history begins: nothing older is in use, and `schema.fill` made these tables."""

revision, down_revision = "2", None


def upgrade() -> None:
    """Do nothing: a registry of this version is there."""
