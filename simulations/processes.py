"""Finds and stops every process of a run, also when the launcher itself has been killed.

Everything that a run starts carries two marks in its environment: its workspace and the run's token. They are
inherited, so that processes which have left the family (Flower and Ray detach theirs) are found as well. This
file is also a program: the watchdog, which waits for the launcher to end, however it ends, and then sweeps.
What is started, and when, is for `simulations/launcher.py`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

HOME_MARK = "LETHE_RUN_HOME"
RUN_MARK = "LETHE_RUN_TOKEN"
GRACE_S = 1.0  # what is durable is so at any moment, and Flower takes 5 s to leave of its own accord
KILL_S = 10.0
POLL_S = 0.05
SCRATCH = "lethe-"
SHORT = 20  # bytes; Ray and its session add 83, and the path of a socket may have 103 (macOS)


def marked(mark: str, value: str) -> list[psutil.Process]:
    """Return the living processes that carry a mark with this value, the calling one excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.pid != os.getpid() and process.environ().get(mark) == value
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def stop(mark: str, value: str) -> None:
    """Stop every process that carries the mark, politely first."""
    family: set[psutil.Process] = set()
    _signal_until_none("terminate", family, mark, value, every=GRACE_S, within=GRACE_S)
    _signal_until_none("kill", family, mark, value, every=POLL_S, within=KILL_S)


def _signal_until_none(
    action: str, family: set[psutil.Process], mark: str, value: str, *, every: float, within: float
) -> None:
    """Signal the marked processes again and again: one may have started another just before its end.

    Nothing waits for single processes: an ended one stays as a zombie until its parent, perhaps the launcher, which
    waits for the watchdog, has asked for it.
    """
    deadline = time.monotonic() + within
    again = 0.0
    while (left := _living(family, mark, value)) and time.monotonic() < deadline:
        if time.monotonic() >= again:
            again = time.monotonic() + every
            for process in left:
                with suppress(psutil.Error):
                    getattr(process, action)()
        time.sleep(POLL_S)


def _living(family: set[psutil.Process], mark: str, value: str) -> list[psutil.Process]:
    """Return the marked processes and all that ever were their children; `family` remembers these.

    Ray's agents write a title over their own environment, and the mark is gone with it.
    """
    for process in marked(mark, value):
        family.add(process)
        with suppress(psutil.Error):
            family |= set(process.children(recursive=True))
    left = []
    for process in family:
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


@contextmanager
def watched(token: str, note: Path) -> Iterator[Path]:
    """Give a new folder for temporary files; when this block ends, remove it and stop the run's processes.

    The watchdog does it, in a session of its own, as soon as the pipe to it closes: when the block ends, and
    also when this process is killed. A second Ctrl-C during the sweep does not stop the watchdog. The file `note`
    names the folder, for `clear_left` after both were killed.
    """
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=_short_folder()))
    note.write_text(str(scratch), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in (HOME_MARK, RUN_MARK)}
    watchdog = subprocess.Popen(
        [sys.executable, "-P", __file__, token, str(scratch)],
        cwd=scratch.parent,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert watchdog.stdin is not None
    try:
        yield scratch
    finally:
        watchdog.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            watchdog.wait(timeout=GRACE_S + KILL_S)
        _clear(token, scratch)  # nothing is left to do, unless the watchdog itself was killed
        note.unlink(missing_ok=True)


def clear_left(note: Path) -> None:
    """Remove the folder of a launcher that was killed together with its watchdog; its processes are to be stopped."""
    with suppress(FileNotFoundError):
        left = Path(note.read_text(encoding="utf-8"))
        if left.name.startswith(SCRATCH) and left.parent == Path(_short_folder()):
            shutil.rmtree(left, ignore_errors=True)
        note.unlink()


def _short_folder() -> str:
    """Return where temporary files go: Ray puts sockets there, whose paths are limited, and splits at spaces."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= SHORT and not re.search(r"\s", usual) else "/tmp"


def _clear(token: str, scratch: Path) -> None:
    stop(RUN_MARK, token)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()  # ends with the launcher
    _clear(sys.argv[1], Path(sys.argv[2]))
