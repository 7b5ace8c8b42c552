"""The wearable's commands, `lethe devices run`, `delta`, `receive`; `simulations/cli.py` mounts them and prints errors.

Nothing heavy is imported before it runs, and torch never.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import StreamError, UsageError
from shared.settings import LEADS, Streaming

if TYPE_CHECKING:
    from client.events import Event
    from client.live import View
    from client.stream import Chunk

HOME = Path("lethe-home")


def run_device(
    record: Annotated[
        Path | None, typer.Option("--record", help="A WFDB record, without its ending.", show_default=False)
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Lines of twelve millivolts; - is stdin.", show_default=False)
    ] = None,
    generate: Annotated[
        float | None, typer.Option("--generate", help="Seconds of a made-up rhythm.", min=0, show_default=False)
    ] = None,
    device: Annotated[int, typer.Option("--device", help="The device's number, as in `lethe devices list`.")] = 0,
    speed: Annotated[float, typer.Option("--speed", help="Times real time; 0 is as fast as it goes.", min=0)] = 1.0,
    hop: Annotated[float, typer.Option("--hop", help="Seconds between two windows.", min=0.002)] = Streaming.hop_s,
    lead: Annotated[str, typer.Option("--lead", help="Which lead the live view draws.")] = "II",
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Save the live view's last frame as SVG.", show_default=False)
    ] = None,
    home: Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")] = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Run a device's bundle on samples: verify it, judge window by window, tell episodes, gaps and what is unclear.

    Ctrl-C ends the stream. Exit code 3: the bundle is revoked and there is nothing to fall back to; 5: bundle or
    samples cannot be relied on.
    """
    from dataclasses import replace

    from client.live import View
    from client.runtime import run
    from client.standing import Device
    from client.stopping import Stopping
    from client.stream import paced

    for name, value in (("--hop", hop), ("--speed", speed), ("--generate", generate or 0.0)):
        if not isfinite(value):
            raise UsageError(f"{name} is {value}, expected a number of seconds, or of times real time")
    if lead.upper() not in LEADS:
        raise UsageError(f"no lead {lead!r}; there are {', '.join(LEADS)}")
    settings = replace(Streaming(), hop_s=hop)
    wearable = Device.of(home.expanduser().resolve(), device)
    chunks = _source(record, csv, generate, settings)
    view = View(device, lead=lead.upper(), picture=picture is not None)
    stopping = Stopping()
    given = stopping.until(paced(chunks, speed=speed) if speed else chunks)
    with stopping.heeded():
        _tell(_watched(run(wearable, view.watched(given), settings=settings), view), view, as_json=as_json)
    if picture is not None:
        from client.live import save

        save(view.last, picture)


def delta_of_device(
    file: Annotated[Path, typer.Argument(help="Where it is written.", show_default=False)],
    device: Annotated[int, typer.Option("--device", help="The device's number, as in `lethe devices list`.")] = 0,
    home: Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")] = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write what a radio carries of a device's bundle to a wearable that keeps the general model's.

    It holds the wearer's weights: remove it once it is sent. Exit code 3: the bundle is revoked, and nothing travels.
    """
    from client.delta import delta_of
    from client.standing import Device, standing
    from shared.files import write_atomically

    wearable = Device.of(home.expanduser().resolve(), device)
    runs, sent = standing(wearable).manifest.runs, delta_of(wearable)
    write_atomically(file.expanduser().resolve(), sent)
    told = {"bytes_on_the_wire": len(sent), "bytes": runs.bytes, "runs": runs.name}
    share = f"{len(sent):,} bytes on the wire, {100 * len(sent) / runs.bytes:.1f} % of the {runs.bytes:,}"
    sys.stdout.write((json.dumps(told) if as_json else f"{share} of {runs.name}, its manifest included") + "\n")


def receive_delta(
    file: Annotated[Path, typer.Argument(help="What `lethe devices delta` wrote.", show_default=False)],
    device: Annotated[int, typer.Option("--device", help="The wearable's number, as where it was made.")] = 0,
    home: Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The wearable's own folder.")] = HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Put what came over a radio in use on a wearable that keeps the general model's bundle.

    Exit code 3: the patient has withdrawn what it was made of; 5: it cannot be relied on. Nothing is changed then.
    """
    from client.receiving import receive
    from client.standing import Device

    wearable = Device.of(home.expanduser().resolve(), device)
    try:
        sent = file.expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    runs = receive(wearable, sent).runs
    told = f"{runs.name} in use, {runs.bytes:,} bytes, sha256 {runs.digest[:12]}"
    sys.stdout.write((json.dumps({"runs": runs.name, "digest": runs.digest}) if as_json else told) + "\n")


def _source(record: Path | None, csv: Path | None, generate: float | None, settings: Streaming) -> Iterable["Chunk"]:
    """Return where the samples come from.

    Raises:
        UsageError: none is named, or several.
        StreamError: the file cannot be opened.
    """
    from client import sources
    from client.table import table

    if sum(one is not None for one in (record, csv, generate)) != 1:
        raise UsageError("name one source of samples: --record, --csv or --generate")
    if record is not None:
        return sources.record(record)
    if generate is not None:
        return sources.generated(generate)
    if str(csv) == "-" and (sys.stdin is None or sys.stdin.closed):
        raise StreamError("stdin is closed; give it the lines, or name a file", "format")
    try:
        descriptor = sys.stdin.fileno() if str(csv) == "-" else os.open(str(csv), os.O_RDONLY)
    except OSError as error:
        raise StreamError(f"{csv} cannot be read: {error.strerror}", "format") from None
    return table(descriptor, stall_s=settings.stall_s)


def _watched(events: Iterable["Event"], view: "View") -> Iterator["Event"]:
    for event in events:
        view.take(event)
        yield event


def _tell(events: Iterable["Event"], view: "View", *, as_json: bool) -> None:
    """Print events as lines of JSON, draw them at a terminal, or print those that are rare."""
    from client.events import as_json as as_object
    from client.live import told

    if as_json or not sys.stdout.isatty():
        for event in events:
            line = json.dumps(as_object(event), allow_nan=False) if as_json else told(event)
            if line is not None:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
        return
    from rich.live import Live

    from client.live import room

    with Live(auto_refresh=False) as live:
        for _ in events:
            live.update(view.frame(*room(live.console.size)), refresh=True)


COMMANDS: Mapping[str, Callable[..., None]] = {
    "run": run_device,
    "delta": delta_of_device,
    "receive": receive_delta,
}
