"""The registry of a workspace that is a PostgreSQL database: its URL, and the file of the workspace that names it.

No database is opened here. The URL has no password: libpq finds it by its own means, in the file that PGPASSFILE names
(by default ~/.pgpass) or in PGPASSWORD.
"""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from shared.errors import DamagedError, UsageError, WorkspaceError
from shared.files import write_atomically

FILE = "registry.json"  # in a workspace, in place of registry.db
FORM = "postgresql+psycopg://USER@HOST/DATABASE"


@dataclass(frozen=True)
class Remote:
    """A database elsewhere.

    Attributes:
        url: for SQLAlchemy, without a password.
        id: the database has it too, so that no workspace opens another one's registry by mistake.
    """

    url: str
    id: str


def checked(url: str) -> str:
    """Return a URL that can be kept in a workspace.

    Raises:
        UsageError: it is none of PostgreSQL's, names no database, or has a password in it.
    """
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or {"password", "sslpassword"} & set(parse_qs(parts.query))
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"--registry is no URL ({error}), expected {FORM}") from error
    if secret:  # not printed
        raise UsageError(
            "--registry has a password in it, and would be kept in the workspace: leave it out; it is read from the "
            "file that PGPASSFILE names (by default ~/.pgpass), or from PGPASSWORD"
        )
    if parts.scheme != "postgresql+psycopg" or not parts.path.strip("/"):
        raise UsageError(
            f"--registry is {url!r}, expected {FORM}; without HOST it is the server on this machine, and ?host=FOLDER "
            "names the folder of its socket"
        )
    return url


def keep(folder: Path, url: str) -> None:
    """Name the database in a new workspace.

    Raises:
        UsageError: the URL cannot be kept.
        OSError: it cannot be written.
    """
    remote = Remote(checked(url), secrets.token_hex(8))
    write_atomically(folder / FILE, (json.dumps(asdict(remote), indent=2) + "\n").encode())


def read(path: Path) -> Remote:
    """Return which database a workspace's file names.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    try:
        found = json.loads(path.read_text())
        return Remote(checked(found["url"]), str(found["id"]))
    except FileNotFoundError:
        raise WorkspaceError(f"no registry at {path}; restore it from a backup") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise DamagedError(
            f'{path} does not say where the registry is ({error}); restore it from a backup: {{"url": "{FORM}", '
            '"id": "<what the database has in its table meta under workspace>"}'
        ) from error
