"""The live view: one lead's waveform, the probabilities, and what has happened; drawn from events, kept nowhere.

A frame can be saved as a picture (`save`), which names no font from elsewhere.
"""

import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from client.events import Alarm, End, Event, Judged, Missing, Over, Using
from client.stream import Chunk
from shared.files import write_atomically
from shared.settings import LEADS, SAMPLING_HZ, SUPERCLASSES

SECONDS, COLUMNS, ROWS = 4, 72, 8  # of the waveform
BAR = 40
LINES = 6  # of the log
LEAST_COLUMNS = 24
REST = ROWS + 13  # lines of a terminal beside the log's: frame, curve, bars and what is said
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille character, from the top


class View:
    """What the view shows; where a picture is wanted, `last` is the frame as the last window left it."""

    def __init__(self, slot: int, *, lead: str, picture: bool = False) -> None:
        self._slot, self._lead, self._picture = slot, lead, picture
        self._wave = np.full(SECONDS * SAMPLING_HZ, np.nan, dtype=np.float32)
        self._seen = 0
        self._using: Using | None = None
        self._judged: Judged | None = None
        self._gap = ""
        self._alarms: dict[str, Alarm] = {}
        self._log: deque[str] = deque(maxlen=LINES)
        self.last = self.frame()

    def watched(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Give the chunks on, and keep the last seconds of one lead."""
        for chunk in chunks:
            missing = np.full(np.clip(chunk.at - self._seen, 0, len(self._wave)), np.nan, dtype=np.float32)
            new = np.concatenate([missing, chunk.samples[LEADS.index(self._lead)]])[-len(self._wave) :]
            self._wave = np.concatenate([self._wave[len(new) :], new])
            self._seen = chunk.at + chunk.samples.shape[1]
            yield chunk

    def take(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case Using():  # of the model before nothing is shown under this one's name
                self._using, self._judged = event, None
                self._alarms.clear()
            case Judged():
                self._judged, self._gap = event, ""
            case Missing():
                self._judged = None
                self._gap = "nothing comes" if event.since_s == event.until_s else "samples are missing"
            case Alarm():
                self._alarms[event.label] = event
            case Over():
                self._alarms.pop(event.label, None)
        if (line := told(event)) is not None:
            self._log.append(line)
        if self._picture and isinstance(event, Judged | Alarm | Missing):
            self.last = self.frame()

    def frame(self, columns: int = COLUMNS, lines: int = LINES) -> RenderableType:
        """Draw what is known now, on so many columns, with so many lines of the log."""
        using, judged = self._using, self._judged
        title = f"device {self._slot} · {using.kind} model {using.bundle[:7]}" if using else f"device {self._slot}"
        wave = Text(trace(self._wave, columns=columns, rows=ROWS), style="green", no_wrap=True)
        said = Text("waiting for the first window", style="dim")
        if self._gap:
            said = Text(f"gap: {self._gap}", style="yellow")
        elif judged is not None and judged.doubts:
            said = Text(f"inconclusive: {'; '.join(judged.doubts[:4])}", style="yellow")
        elif self._alarms:
            said = Text(f"alarm: {', '.join(self._alarms)}", style="bold red")
        elif judged is not None:
            said = Text("no alarm", style="green")
        head = Text(f"lead {self._lead}, the last {SECONDS} s", style="dim")
        log = Text("\n".join([*self._log][-lines:]), style="dim")
        for text in (said, log):
            text.no_wrap, text.overflow = True, "ellipsis"
        return Panel(
            Group(head, wave, Text(), self._bars(max(BAR + columns - COLUMNS, 10)), Text(), said, Text(), log),
            title=title,
            subtitle=clock(self._seen / SAMPLING_HZ),
            width=columns + 4,
        )

    def _bars(self, wide: int) -> Table:
        """Draw the mean probabilities; none where the last window has none."""
        table = Table.grid(padding=(0, 2))
        means = self._judged.mean if self._judged is not None else ()
        for number, label in enumerate(SUPERCLASSES):
            full = round(means[number] * wide) if means else 0
            style = "bold red" if label in self._alarms else "cyan"
            bar = Text("█" * full, style=style).append("░" * (wide - full), style="dim")
            table.add_row(label, bar, f"{means[number]:.2f}" if means else "–")
        return table


def room(terminal: ConsoleDimensions) -> tuple[int, int]:
    """Return how many columns of waveform, and lines of the log, a terminal has room for."""
    return max(min(COLUMNS, terminal.width - 4), LEAST_COLUMNS), max(min(LINES, terminal.height - REST), 1)


def told(event: Event) -> str | None:
    """Return an event as a line, None for what is too frequent to be told."""
    match event:
        case Using():
            why = f": {event.why}" if event.why else ""
            bits = ", eight bits" if event.eight_bits else ""
            return f"{'':>9} {event.kind} model, bundle {event.bundle[:12]}{bits}{why}"
        case Missing() if event.since_s == event.until_s:
            return f"{clock(event.since_s)} gap: nothing comes"
        case Missing():
            return f"{clock(event.since_s)} gap until {clock(event.until_s)}: samples are missing"
        case Alarm():
            return f"{clock(event.since_s)} alarm {event.label}, mean probability {event.mean:.2f}"
        case Over():
            until = clock(event.until_s)
            return f"{clock(event.since_s)} episode {event.label} until {until}, at most {event.peak:.2f}"
        case End():
            windows = f"{event.judged} windows judged, {event.inconclusive} inconclusive"
            return f"{clock(event.seconds)} end: {windows}"
    return None


def trace(samples: npt.NDArray[np.float32], *, columns: int, rows: int) -> str:
    """Return a curve as lines of Braille characters, each of two by four dots; missing samples are left out."""
    wide, high = 2 * columns, 4 * rows
    dots = np.zeros((high, wide), dtype=bool)
    known = samples[~np.isnan(samples)]
    if not len(known):
        return "\n".join([chr(0x2800) * columns] * rows)
    least, span = float(known.min()), max(float(np.ptp(known)), 1e-6)
    before: int | None = None
    for column, part in enumerate(np.array_split(samples, wide)):
        part = part[~np.isnan(part)]
        if not len(part):
            before = None
            continue
        first, last = (high - 1 - int((high - 1) * (float(end) - least) / span) for end in (part.max(), part.min()))
        if before is not None:  # the curve hangs together
            first, last = min(first, before), max(last, before)
        dots[first : last + 1, column] = True
        before = high - 1 - int((high - 1) * (float(part[-1]) - least) / span)
    cells = dots.reshape(rows, 4, columns, 2)
    codes = (cells * np.array(DOTS)[None, :, None, :]).sum(axis=(1, 3)) + 0x2800
    return "\n".join("".join(map(chr, row)) for row in codes)


def clock(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds, as far as they are needed."""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    ahead = f"{int(hours)}:" if hours else ""
    return f"{ahead}{int(minutes):02d}:{rest:05.2f}"


def save(frame: RenderableType, path: Path) -> None:
    """Write a frame as SVG."""
    console = Console(record=True, width=COLUMNS + 6, file=io.StringIO())
    console.print(frame)
    svg = console.export_svg(title="lethe devices run", unique_id="lethe")
    write_atomically(path, re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).encode())
