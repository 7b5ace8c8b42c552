"""Every error Lethe raises on purpose, and the exit code the command line gives it.

    LetheError                 1   something failed
    ├── UsageError             2   the request does not make sense: unknown patient, record, setting
    ├── ConsentError           3   consent refuses: withdrawn data, a patient enrolled twice
    │   └── RevokedError       3   a wearable's model was made of withdrawn data and may not run
    ├── AuditError             4   the auditor says no
    ├── DataError              5   a file or folder is not what it should be
    │   ├── BundleError        5   a wearable's model is not the one that was signed, or not for this use
    │   └── StreamError        5   samples that no model may be asked about
    └── WorkspaceError         1   no workspace here, one from another version, or one in use
        ├── DamagedError       5   the registry's file is not what it should be
        ├── UnwritableError    5   the workspace is read-only
        └── RunError           1   the Flower run failed, hung or was interrupted

A message says what was seen, what was expected and what to do. It never names a waveform's values.
"""

import errno
from pathlib import Path

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)  # the operating system's errors for it
DISK_FULL = ("No space left on device", "Disk quota exceeded", "database or disk is full")


class LetheError(Exception):
    """Something failed; the message is for the person at the terminal."""

    exit_code = 1


class UsageError(LetheError):
    """The request does not make sense: an unknown patient, record or setting."""

    exit_code = 2


class ConsentError(LetheError):
    """Consent refuses: the data are withdrawn, or the patient is enrolled already."""

    exit_code = 3


class AuditError(LetheError):
    """The auditor says no."""

    exit_code = 4


class DataError(LetheError):
    """A file or folder is not what it should be."""

    exit_code = 5


class RevokedError(ConsentError):
    """A wearable's model was made of data that the patient has withdrawn since; it may not run."""


class BundleError(DataError):
    """A wearable's model is not the one that was signed, or not for this use.

    `reason` is "missing", "signature", "changed", "validity", "superseded" or "contract" (other labels, leads, units
    or sampling rate).
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StreamError(DataError):
    """Samples that no model may be asked about; `reason` is "leads", "units", "rate" or "format"."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class WorkspaceError(LetheError):
    """There is no workspace here, it belongs to another version, or another run is using it."""


class DamagedError(WorkspaceError):
    """The registry's file is not what it should be."""

    exit_code = 5


class UnwritableError(WorkspaceError):
    """The workspace is read-only, or this user may not write there."""

    exit_code = 5


class RunError(WorkspaceError):
    """The Flower run failed, hung or was interrupted."""


def code_of(error: BaseException) -> int:
    """Return the exit code of a command that an error ends."""
    if isinstance(error, OSError) and error.errno in READ_ONLY:
        return UnwritableError.exit_code
    return error.exit_code if isinstance(error, LetheError) else 1


def plainly(error: BaseException, *, inside: Path | None = None) -> str:
    """Return what a person is told of a full disk or of a path that cannot be used; "" of any other error.

    Files in the folder `inside` are named as seen from there: what a device answers tells no path of its machine.
    """
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    if inside is not None:
        where = where.replace(f"{inside}/", "")
    if any(sign in str(error) for sign in DISK_FULL):  # SQLite and safetensors have errors of their own for it
        return f"the disk is full{where}; free some space and run the command again"
    if isinstance(error, OSError):
        return f"{error.strerror or error}{where}; check the path and its rights and try again"
    return ""
