"""What every command prints and how: results on stdout, progress and errors on stderr.

Rich is imported when something is drawn, so that `lethe --help` stays quick.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shared.interrupts import heed

if TYPE_CHECKING:
    from rich.console import RenderableType


def show(result: Mapping[str, Any], *, as_json: bool, render: Callable[[], "RenderableType"]) -> None:
    """Print a command's result on stdout: one JSON object, or what `render` draws.

    A plain string is printed as it is, so that a path stays one line that can be copied; a `Text` is not wrapped
    either. Only tables are fitted to the terminal.
    """
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    drawn = render()
    if isinstance(drawn, str):
        sys.stdout.write(drawn + "\n")
        sys.stdout.flush()
        return
    from rich.console import Console
    from rich.text import Text

    # A line of a page that says it is not to be wrapped is not to be cut either.
    Console(highlight=False).print(drawn, soft_wrap=isinstance(drawn, Text), crop=False)


def note(text: str) -> None:
    """Print one line about what is going on, on stderr, as it is."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Draw a progress bar on stderr; the function it gives sets how much is done.

    On a terminal it is a moving bar; elsewhere (a log, a pipe) it is one line at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total)

        def tell(done: int) -> None:
            heed()
            bar.update(task, completed=done)

        yield tell
