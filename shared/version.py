"""Which code this is: two sides that run different code must notice."""

import hashlib
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parent.parent


@cache
def code_version() -> str:
    """Return the sha256 of the sources of server, client and shared, shortened to 16 hex digits."""
    sources = sorted(path for part in ("server", "client", "shared") for path in (_ROOT / part).rglob("*.py"))
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
