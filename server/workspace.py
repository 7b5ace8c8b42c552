"""The folder the hospital works in: where each thing lies, one run at a time, and nothing half-made.

What is inside is for the modules that write it. This one imports no database: a command can refuse early.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

from server import registry_url
from shared.errors import READ_ONLY, UnwritableError, WorkspaceError
from shared.files import flush_folder, folder_beside, write_atomically

VERSION = 3
MANIFEST = "workspace.json"
POLL_S = 0.05


@dataclass(frozen=True)
class Workspace:
    """A workspace that exists.

    Attributes:
        home: absolute path of the folder.
    """

    home: Path

    @classmethod
    def create(cls, home: Path, *, data: Path) -> Self:
        """Make an empty workspace whose patients come from the folder `data`.

        Raises:
            WorkspaceError: there is something at `home` already, or it cannot be written.
        """
        home = _absolute(home)
        _refuse_occupied(home)
        return cls._fill(home, data=data)

    @classmethod
    @contextmanager
    def building(cls, home: Path, *, data: Path, registry: str | None = None) -> Iterator[Self]:
        """Give a workspace beside `home` that moves there when the block ends well, and else disappears.

        So an enrolment that fails or is interrupted leaves nothing under the final name. Close every file
        inside it before the block ends, and use `Workspace.open(home)` afterwards.

        Args:
            home: where it is going to be.
            data: the folder that the patients come from.
            registry: URL of an empty PostgreSQL database; None keeps the registry in an SQLite file.

        Raises:
            UsageError: the URL cannot be kept.
            WorkspaceError: there is something at `home` already, or it cannot be written.
        """
        home = _absolute(home)
        _refuse_occupied(home)
        with ExitStack() as stack:
            try:
                home.parent.mkdir(parents=True, exist_ok=True)
                beside = stack.enter_context(folder_beside(home, mode=0o700))
            except OSError as error:
                raise _unwritable(home, error) from error
            yield cls._fill(beside, data=data, registry=registry)
            _refuse_occupied(home)
            _move(beside, home)

    @classmethod
    def open(cls, home: Path) -> Self:
        """Return the workspace at `home`.

        Raises:
            WorkspaceError: there is none, it is damaged, or another version made it.
        """
        workspace = cls(_absolute(home))
        _manifest(workspace.home)
        return workspace

    @classmethod
    def _fill(cls, home: Path, *, data: Path, registry: str | None = None) -> Self:
        """Make the rooms, and last the manifest: a folder without it is no workspace."""
        workspace = cls(home)
        manifest = {"lethe_workspace": VERSION, "data": str(_absolute(data))}
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)  # it names patients
            for folder in workspace.rooms:
                folder.mkdir(mode=0o700 if folder == workspace.keys else 0o777)
            if registry is not None:
                registry_url.keep(home, registry)
            write_atomically(home / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        except OSError as error:
            raise _unwritable(home, error) from error
        return workspace

    @property
    def rooms(self) -> tuple[Path, ...]:
        """Return the folders of a workspace."""
        seen = (self.models, self.devices, self.feeds, self.reports)
        return (*seen, self.flower, self.cache, self.keys, self.certificates)

    @property
    def data(self) -> Path:
        """Return the data folder that the patients were enrolled from, absolute."""
        return Path(_manifest(self.home)["data"])

    @property
    def registry_path(self) -> Path:
        """Return the database of patients, consent, models and jobs, or the file that says where it is."""
        elsewhere = self.home / registry_url.FILE
        return elsewhere if elsewhere.exists() else self.home / "registry.db"

    @property
    def models(self) -> Path:
        """Return the folder of general models, one folder a sha256."""
        return self.home / "models"

    @property
    def slices(self) -> Path:
        """Return where networks are kept that have learnt some of the corpus's patients; there when `sisa` is."""
        return self.home / "slices"

    @property
    def devices(self) -> Path:
        """Return where the simulated devices keep their private folders, one a slot."""
        return self.home / "devices"

    @property
    def feeds(self) -> Path:
        """Return the folder that says, a file a slot, what a simulated sensor records."""
        return self.home / "feeds"

    def feed(self, slot: int) -> Path:
        """Return the feed of one slot."""
        return self.feeds / f"{slot}.json"

    @property
    def reports(self) -> Path:
        """Return the folder of HTML reports."""
        return self.home / "reports"

    @property
    def flower(self) -> Path:
        """Return the folder of locks, logs and the state of runs; Flower itself works in a temporary one."""
        return self.home / "flower"

    @property
    def cache(self) -> Path:
        """Return the server's signal cache."""
        return self.home / "cache"

    @property
    def keys(self) -> Path:
        """Return the folder of the signing key, which only its owner may enter."""
        return self.home / "keys"

    @property
    def certificates(self) -> Path:
        """Return the folder of certificates, one file a job."""
        return self.home / "certificates"

    @property
    def deploy(self) -> Path:
        """Return the folder of a deployment's keys; there is none while the devices are simulated."""
        return self.home / "deploy"

    @property
    def deployed(self) -> bool:
        """Return whether the devices are machines of their own, which no run may simulate."""
        return self.deploy.exists()

    @contextmanager
    def launching(self) -> Iterator[None]:
        """Keep others from starting anything here that takes the lock, from before a run has it until it is over.

        Raises:
            WorkspaceError: another process is at it.
        """
        try:
            self.flower.mkdir(parents=True, exist_ok=True)
            file = (self.flower / "launcher.lock").open("a+")
        except OSError as error:
            raise _unwritable(self.home, error) from error
        with file:
            if not _taken(file):
                file.seek(0)
                who = f" (process {file.read()})"
                raise WorkspaceError(f"another run is going on in {self.home}{who}; wait until it ends, or stop it")
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    @contextmanager
    def lock(self, purpose: str, *, patience_s: float = 0.0) -> Iterator[None]:
        """Hold the workspace for one run; the lock dies with its process, however that ends.

        Withdrawals do not take it: consent never waits for a run.

        Args:
            purpose: what others are told who find it taken.
            patience_s: how long to wait for it; a process that is being killed lets go of it last.

        Raises:
            WorkspaceError: another run holds it; says which process, for what and since when.
        """
        try:
            file = (self.home / "run.lock").open("a+")
        except OSError as error:
            raise _unwritable(self.home, error) from error
        with file:
            deadline = time.monotonic() + patience_s
            while not _taken(file):
                if time.monotonic() >= deadline:
                    raise WorkspaceError(self._in_use_by(file.name))
                time.sleep(POLL_S)
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holder = {"pid": os.getpid(), "since": since, "purpose": purpose}
            # In place, since the lock belongs to this file and not to its name.
            file.truncate(0)
            file.write(json.dumps(holder))
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def _in_use_by(self, lock: str) -> str:
        """Say who holds the lock, as far as the file tells."""
        try:
            holder = json.loads(Path(lock).read_text())
            who = f"{holder['purpose']} (process {holder['pid']}, since {holder['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process"
        return f"workspace {self.home} is in use by {who}; wait until it ends, or stop it and try again"


def _taken(file: IO[str]) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _absolute(path: Path) -> Path:
    return path.expanduser().resolve()


def _unwritable(home: Path, error: OSError) -> WorkspaceError:
    kind = UnwritableError if error.errno in READ_ONLY else WorkspaceError
    return kind(f"cannot write workspace {home}: {error.strerror or error}; free space or choose another --home")


def _move(folder: Path, home: Path) -> None:
    try:
        folder.replace(home)
        flush_folder(home.parent)
    except OSError as error:
        raise _unwritable(home, error) from error


def _refuse_occupied(home: Path) -> None:
    """Refuse a place where something is, so that no file of others is mixed with ours."""
    if (home / MANIFEST).exists():
        raise WorkspaceError(f"there is a workspace at {home} already; use it, or choose another --home")
    if home.exists() and not (home.is_dir() and not any(home.iterdir())):
        raise WorkspaceError(f"{home} exists and is not an empty folder; choose another --home")


def _manifest(home: Path) -> Mapping[str, Any]:
    """Return the checked content of the manifest."""
    path = home / MANIFEST
    try:
        content: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise WorkspaceError(
            f"no workspace at {home} ({MANIFEST} is missing); `lethe init` makes one, --home names another"
        ) from None
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f'{path} cannot be read ({error}); restore it: {{"lethe_workspace": {VERSION}, "data": "<data folder>"}}'
        ) from error
    version = content.get("lethe_workspace") if isinstance(content, dict) else None
    if version != VERSION:
        raise WorkspaceError(
            f"{path} is of workspace version {version!r}, this Lethe reads version {VERSION}; "
            "use the Lethe that made it, or make a new workspace with `lethe init --home NEW`"
        )
    if not isinstance(content.get("data"), str):
        raise WorkspaceError(f'{path} names no data folder; add "data": "<data folder>"')
    return dict(content)
