"""`lethe patients withdraw` in a process of its own, killed on the way."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LETHE = "import sys; sys.argv[0] = 'lethe'; from simulations.entry import main; main()"
COUNTED = """
import sys
from pathlib import Path
from simulations.fault_points import Steps
home, fatal, note = Path(sys.argv.pop(1)), int(sys.argv.pop(1)), Path(sys.argv.pop(1))
steps = Steps(home, fatal=fatal, note=note)
try:
    sys.argv[0] = "lethe"
    from simulations.entry import main
    main()
finally:
    note.write_text(str(steps.count))
"""


@dataclass(frozen=True)
class Command:
    """How a command ended.

    Attributes:
        code: its exit code, -9 where it was killed.
        at: the moment of its end, on the machine's monotonic clock.
        seconds: that it took.
        said: its output.
    """

    code: int
    at: float
    seconds: float
    said: str


def lethe(home: Path, *words: str, after: float | None = None, step: int | None = None) -> Command:
    """Run a command on a workspace, and kill it after so many seconds or before a step of its own on the disk.

    With `step` 0 nothing is killed, and the file `steps` beside the workspace holds how many there were.
    """
    program: Sequence[str] = (LETHE,)
    if step is not None:
        program = (COUNTED, str(home), str(step), str(home.parent / "steps"))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", *program, *words, "--home", str(home)],
        cwd=home.parent,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
    ended = time.monotonic()
    return Command(process.returncode, ended, ended - began, said)
