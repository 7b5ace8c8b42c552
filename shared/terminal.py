"""What every command prints and how: results on stdout, progress and errors on stderr.

Rich is imported when something is drawn, so that `lethe --help` stays quick.
"""

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shared.interrupts import heed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_OBEYED = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_HINT = re.compile(r"`(lethe (?!-|audit|compare|data|paper)(?:(?!--home)[^`])*)`")  # the others know no --home


def plain(text: str, *, keep: str = "\n\t") -> str:
    """Return a text with a mark for whatever a terminal does not show, or obeys; what is in `keep` stays."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else "\ufffd" for letter in text)


def said(text: str) -> str:
    """Return a text as it is printed: plain, and with the `--home` of this command in those that it names."""
    given = [later for word, later in zip(sys.argv, sys.argv[1:], strict=False) if word == "--home"]
    given += [word.partition("=")[2] for word in sys.argv if word.startswith("--home=")]
    home = f" --home {shlex.quote(given[-1])}" if given else ""
    return plain(_HINT.sub(lambda it: f"`{it[1]}{home}`", text))


def console(*, stderr: bool = False) -> "Console":
    """Return where tables and lines are drawn; what is drawn is said as `said` has it."""
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render(self, *given: Any, **named: Any) -> Any:
            for part in super().render(*given, **named):
                yield part if part.control else Segment(said(part.text), part.style)

    return Plain(stderr=stderr, highlight=False)


def show(result: Mapping[str, Any], *, as_json: bool, render: Callable[[], "RenderableType"]) -> None:
    """Print a command's result on stdout: one JSON object, or what `render` draws.

    A plain string is printed as it is, so that a path stays one line that can be copied; a `Text` is not wrapped
    either. Only tables are fitted to the terminal.
    """
    if as_json:
        text = json.dumps(result, indent=2, ensure_ascii=False)  # which escapes only some of what a terminal obeys
        sys.stdout.write(_OBEYED.sub(lambda it: f"\\u{ord(it[0]):04x}", text) + "\n")
        sys.stdout.flush()
        return
    drawn = render()
    if isinstance(drawn, str):
        sys.stdout.write(said(drawn) + "\n")
        sys.stdout.flush()
        return
    from rich.text import Text

    # A line of a page that says it is not to be wrapped is not to be cut either.
    console().print(drawn, soft_wrap=isinstance(drawn, Text), crop=False)


def note(text: str) -> None:
    """Print one line about what is going on, on stderr."""
    sys.stderr.write(said(text) + "\n")
    sys.stderr.flush()


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Draw a progress bar on stderr; the function it gives sets how much is done.

    On a terminal it is a moving bar; elsewhere (a log, a pipe) it is one line at the end.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)

        def tell(done: int) -> None:
            heed()
            bar.update(task, completed=done)

        yield tell
