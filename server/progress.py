"""How a run tells the outside how far it is: one small file, replaced as it goes, and the time of each phase.

The Flower run lives in another process than the person who waits for it; `simulations/launcher.py` draws this.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tell = Callable[[int, int], None]


@dataclass
class Progress:
    """The phases of one run.

    Attributes:
        path: the file that is kept up to date.
        phases: name and seconds of each finished phase, in order.
    """

    path: Path
    phases: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[Tell]:
        """Time a phase; the function it gives tells how much is done of how much."""
        began = time.perf_counter()
        self._write(name, 0, 0)
        yield lambda done, total: self._write(name, done, total)
        self.phases.append({"name": name, "seconds": time.perf_counter() - began})
        self._write(name, 1, 1)

    def end(self, *, error: str = "", exit_code: int = 0, traceback: str = "") -> None:
        """Tell that the run is over, and how; on a full disk within the room that the file has."""
        try:
            self._write("end", 0, 0, error=error, exit_code=exit_code, traceback=traceback)
        except OSError:
            state = {"phase": "end", "done": 0, "total": 0, "finished": [], "error": error, "exit_code": exit_code}
            with self.path.open("r+") as file:
                file.write(json.dumps(state))
                file.truncate()

    def _write(self, phase: str, done: int, total: int, **more: Any) -> None:
        state = {"phase": phase, "done": done, "total": total, "finished": self.phases, **more}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(self.path)
