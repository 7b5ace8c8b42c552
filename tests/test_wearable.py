"""The wearable at work: samples in, windows judged or called inconclusive, episodes and gaps told; nothing guessed."""

import io
import json
import os
import re
import signal as signal_numbers
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fleet import Fleet
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner
from wearable_signals import as_table, chunked, seconds_of, signal

from client.episodes import Smoother
from client.events import Alarm, End, Event, Judged, Missing, Over, Using, as_json
from client.live import View, room, told, trace
from client.quality import doubts, unit_of
from client.runtime import Bundle, load, run
from client.sources import generated, record
from client.standing import Device, standing
from client.stream import Chunk, Cutter, Gap, Window, paced
from client.table import _Clock, table
from shared.errors import StreamError
from shared.model import load as load_model
from shared.model import probabilities
from shared.settings import LEADS, SUPERCLASSES, Streaming
from simulations.cli import app as cli

LIMITS = Streaming()


@pytest.fixture
def device(fleet: Fleet) -> Device:
    return Device.of(fleet.workspace.home, fleet.wearer(0).slot)


def judged(events: list[Event]) -> list[Judged]:
    return [event for event in events if isinstance(event, Judged)]


def given_by(text: str, *, stall_s: float = 5.0) -> list[Chunk]:
    """What the table source makes of a text that comes through a pipe."""
    reading, writing = os.pipe()
    done = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdout.write(sys.stdin.read())"],
                            stdin=subprocess.PIPE, stdout=writing, text=True)  # fmt: skip
    os.close(writing)
    assert done.stdin is not None
    done.stdin.write(text)
    done.stdin.close()
    try:
        return list(table(reading, stall_s=stall_s))
    finally:
        done.wait()
        os.close(reading)


def joined(chunks: list[Chunk]) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in chunks], axis=1)


# Windows


@given(st.lists(st.integers(1, 900), min_size=1, max_size=12), st.integers(1, 700))
def test_windows_are_the_same_however_samples_arrive(sizes, hop):
    samples = np.arange(12 * sum(sizes), dtype=np.float32).reshape(12, -1)
    cutter, found, at = Cutter(hop=hop), [], 0
    for size in sizes:
        for piece in cutter.cut(Chunk(at, samples[:, at : at + size])):
            assert isinstance(piece, Window)
            np.testing.assert_array_equal(piece.samples, samples[:, piece.at : piece.at + 500])
            found.append(piece.at)
        at += size
    assert found == list(range(0, sum(sizes) - 499, hop))


@given(st.integers(1, 3000), st.integers(1, 2000))
def test_no_window_spans_a_gap(before, lost):
    cutter = Cutter(hop=100)
    first = list(cutter.cut(Chunk(0, np.zeros((12, before), dtype=np.float32))))
    gap, *after = cutter.cut(Chunk(before + lost, np.ones((12, 1000), dtype=np.float32)))
    assert gap == Gap(before, before + lost)
    assert all(piece.at + 500 <= before for piece in first)
    assert [piece.at for piece in after] == list(range(before + lost, before + lost + 501, 100))
    assert all((piece.samples == 1).all() for piece in after)


def test_a_stream_that_stalls_is_told_once_and_begins_anew():
    cutter, nothing = Cutter(hop=500), np.empty((12, 0), dtype=np.float32)
    assert list(cutter.cut(Chunk(0, np.zeros((12, 300), dtype=np.float32)))) == []
    assert list(cutter.cut(Chunk(300, nothing))) == [Gap(300, 300)]
    assert list(cutter.cut(Chunk(300, nothing))) == []
    (window,) = cutter.cut(Chunk(300, np.ones((12, 500), dtype=np.float32)))
    assert (window.at, float(window.samples.min())) == (300, 1.0)


def test_real_time_is_kept_and_faster_is_faster():
    for speed in (1.0, 4.0):
        now = [0.0]
        slept = [now.__setitem__(0, now[0]) for _ in ()]
        chunks = paced(generated(2), speed=speed, clock=lambda now=now: now[0],
                       sleep=lambda s, now=now: now.__setitem__(0, now[0] + s))  # fmt: skip
        assert (len(list(chunks)), slept) == (8, [])
        assert now[0] == pytest.approx(2 / speed)


# What is not judged


def spoilt(lead: str, make) -> np.ndarray:
    window = signal(2)[:, 500:1000].copy()
    row = window[LEADS.index(lead)]
    row[:] = make(row, np.random.default_rng(0))
    return window


def still_halfway(row, _):
    return np.concatenate([row[:250], np.full(250, row[250])])


CASES = {
    "flat": lambda row, _: np.zeros_like(row),
    "saturated": lambda row, _: np.where(np.arange(500) // 30 == 7, 3.0, row),  # 60 ms at a rail
    "noisy": lambda row, rng: row + 0.15 * rng.standard_normal(500),
    "out of range": lambda row, _: np.where(np.arange(500) == 7, 1e3, row),
    "samples are missing": lambda row, _: np.where(np.arange(500) == 7, np.nan, row),
}


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_no_number_is_a_missing_sample(device, value):
    samples = signal(4)
    samples[3, 900] = value
    found = judged(list(run(device, chunked(samples))))
    assert {one.doubts for one in found if one.since_s <= 1.8 < one.until_s} == {("AVR: samples are missing",)}
    clear = [one for one in found if not one.doubts]
    assert len(clear) == len(found) - 2
    assert np.isfinite([one.probabilities + one.mean for one in clear]).all()


@pytest.mark.parametrize("lead", ["I", "AVL", "V6"])
@pytest.mark.parametrize("word", CASES)
def test_a_bad_lead_is_named_and_nothing_is_guessed(lead, word):
    assert doubts(spoilt(lead, CASES[word]), LIMITS) == (f"{lead}: {word}",)


def test_a_lead_that_falls_off_halfway_is_flat():
    assert doubts(spoilt("V1", still_halfway), LIMITS) == ("V1: flat",)


def test_mains_hum_is_noise():
    hum = 0.2 * np.sin(2 * np.pi * 50 * np.arange(500) / 500)
    assert doubts(spoilt("V2", lambda row, _: row + hum), LIMITS) == ("V2: noisy",)


def test_a_clean_window_has_no_doubts_and_is_in_millivolts():
    window = signal(2)[:, 500:1000]
    assert doubts(window, LIMITS) == ()
    assert unit_of(window, LIMITS) == "millivolts"


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "volts"), (1e3, "microvolts")])
@pytest.mark.parametrize("seconds", [3, 30])
def test_another_unit_is_recognised_and_refused_before_anything_is_judged(device, factor, unit, seconds):
    said = []
    with pytest.raises(StreamError, match=f"look like {unit}, or the electrodes are not on:") as found:
        said.extend(run(device, chunked(signal(seconds) * np.float32(factor))))
    assert (found.value.reason, found.value.exit_code) == ("units", 5)


@pytest.mark.parametrize("begin", [1e-3 * np.ones(12), 60 * (np.arange(12) == 4)], ids=["not on yet", "put on"])
def test_electrodes_that_are_being_put_on_are_no_other_unit(device, begin):
    samples, rng = signal(8), np.random.default_rng(0)
    samples[:, :800] = (begin[:, None] * rng.standard_normal((12, 800))).astype(np.float32)
    found = judged(list(run(device, chunked(samples))))
    assert all(one.doubts for one in found if one.until_s <= 1.6)
    assert [one.doubts for one in found if one.since_s >= 2.0] == [()] * 11


@pytest.mark.parametrize("shape", [(1, 125), (11, 125), (125, 12), (125,)])
def test_samples_of_another_shape_are_refused(device, shape):
    with pytest.raises(StreamError, match="samples of shape"):
        list(run(device, [Chunk(0, np.zeros(shape, dtype=np.float32))]))


def test_samples_that_come_twice_are_refused(device):
    chunks = list(chunked(signal(2)))
    with pytest.raises(StreamError, match="sample 500 came again, expected 625 or later"):
        list(run(device, [*chunks[:5], chunks[4]]))


def test_units_are_told_from_the_first_leads_that_move_and_silence_later_is_no_other_unit(device):
    samples = np.concatenate([np.zeros((12, 1000)), signal(2), 1e-4 * signal(2)], axis=1).astype(np.float32)
    found = judged(list(run(device, chunked(samples))))
    assert [bool(one.doubts) for one in found][:2] == [True, True]
    assert any(not one.doubts for one in found)
    assert found[-1].doubts == tuple(f"{lead}: flat" for lead in LEADS)


@pytest.mark.real
def test_real_ecg_is_judged_and_volts_are_told_from_it(real_data):
    inconclusive = total = 0
    for path in sorted((real_data / "ptbxl-mini" / "records500").rglob("*.hea"))[::10]:
        samples = joined(list(record(path)))
        for at in range(0, 5000, 500):
            window = samples[:, at : at + 500]
            total += 1
            inconclusive += bool(doubts(window, LIMITS))
            assert unit_of(window, LIMITS) == "millivolts"
            assert unit_of(window * np.float32(1e-3), LIMITS) == "volts"
            assert unit_of(window * np.float32(1e3), LIMITS) == "microvolts"
    assert total >= 400
    assert inconclusive / total < 0.08  # 2.9 % of all records, more of every tenth


# Where samples come from


def test_a_table_is_read_with_its_leads_in_any_order():
    samples = signal(1.5)
    found = given_by(as_table(samples, names=LEADS[::-1]))
    np.testing.assert_allclose(joined(found), samples, atol=1e-5)
    assert found[0].at == 0


def test_a_table_without_a_header_has_the_leads_in_order_and_its_last_line_needs_no_end():
    samples = signal(1)
    text = "\n".join(as_table(samples).splitlines()[1:])
    np.testing.assert_allclose(joined(given_by(text)), samples, atol=1e-5)


def test_an_empty_field_is_a_missing_sample_and_its_windows_are_inconclusive(device):
    lines = as_table(signal(4)).splitlines()
    lines[801] = "," + lines[801].split(",", 1)[1]
    found = judged(list(run(device, given_by("\n".join(lines)))))
    doubtful = [one for one in found if one.doubts]
    assert {one.doubts for one in doubtful} == {("I: samples are missing",)}
    assert all(one.since_s <= 1.6 < one.until_s for one in doubtful)
    assert all(not one.probabilities for one in doubtful)
    assert len(found) > len(doubtful) > 0


def test_a_jump_in_time_is_a_gap_that_is_told_and_that_no_window_spans(device):
    samples, times = signal(6), seconds_of(signal(6))
    kept = (times < 2.5) | (times >= 3.7)
    events = list(run(device, given_by(as_table(samples[:, kept], times=times[kept] + 17))))
    assert [event for event in events if isinstance(event, Missing)] == [Missing(2.5, 3.7)]
    assert all(one.until_s <= 2.5 or one.since_s >= 3.7 for one in judged(events))
    assert isinstance(events[-1], End)
    assert events[-1].seconds == 6.0


def test_a_stream_that_stops_is_told(device):
    program = (
        "import sys, time; lines = sys.stdin.read().splitlines(True);"
        "sys.stdout.writelines(lines[:1200]); sys.stdout.flush(); time.sleep(.6); sys.stdout.writelines(lines[1200:])"
    )
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=writing, text=True) as sender:
        os.close(writing)
        sender.stdin.write(as_table(signal(4)))
        sender.stdin.close()
        events = list(run(device, table(reading, stall_s=0.2)))
        os.close(reading)
    gaps = [event for event in events if isinstance(event, Missing)]
    assert Missing(1199 / 500, 1199 / 500) in gaps
    assert told(gaps[-1]) == "00:02.40 gap: nothing comes"
    assert events[-1].seconds == 4.0


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        (as_table(signal(1), names=LEADS[:11]), "leads", "11 of the leads, expected 12: V6 missing"),
        (as_table(signal(1)).replace("AVL", "X"), "leads", "column 'X', expected the leads and `time`"),
        (
            as_table(signal(1), times=seconds_of(signal(1))).replace("time", "timestamp"),
            "leads",
            "column 'TIMESTAMP', ex",
        ),
        (as_table(signal(1)).replace("AVL", "AVR"), "leads", "AVR, AVL missing or there twice"),
        ("1,2,3\n", "leads", "3 columns and names none"),
        (as_table(signal(1)) + "1,2,3\n", "leads", "line 502 has 3 columns, expected 12"),
        (as_table(signal(1)).replace(",", ";"), "format", "separated by ';', expected commas"),
        (as_table(signal(1)) + ",".join(["1_0"] * 12), "format", "line 502 holds something that is no number"),
        (as_table(signal(1)) + ",".join(["x"] * 12), "format", "line 502 holds something that is no number"),
        (as_table(signal(1), times=2 * seconds_of(signal(1))), "rate", "250 samples a second, expected 500"),
        (
            as_table(signal(1), times=seconds_of(signal(1))) + "0.5" + ",0" * 12,
            "format",
            "goes back .* before line 502",
        ),
        (
            as_table(signal(1), times=seconds_of(signal(1))) + "nan" + ",0" * 12,
            "format",
            "a time is missing in line 502",
        ),
    ],
    ids=[
        "eleven",
        "unknown",
        "another name",
        "twice",
        "three",
        "short line",
        "semicolons",
        "underscore",
        "word",
        "rate",
        "back",
        "no time",
    ],
)
def test_a_table_that_is_no_twelve_leads_at_500_hz_is_refused(text, reason, words):
    with pytest.raises(StreamError, match=words) as found:
        given_by(text)
    assert found.value.reason == reason


def timed(*parts: tuple[float, float]) -> str:
    """Lines that come at some rates, one after the other: (samples a second, seconds)."""
    steps = np.concatenate([np.full(round(hz * seconds), 1 / hz) for hz, seconds in parts])
    return as_table(signal(len(steps) / 500), times=np.cumsum(steps))


def arriving(text: str, *, at_once: int) -> list[Chunk]:
    """What the table source makes of lines of which so many arrive together."""
    lines = text.splitlines(keepends=True)
    reading, writing = os.pipe()
    found, source = [], table(reading, stall_s=5.0)
    for start in range(0, len(lines), at_once):
        part = "".join(lines[start : start + at_once]).encode()
        os.write(writing, part)
        if start:
            found.append(next(source))
    os.close(writing)
    found.extend(source)
    os.close(reading)
    return found


@pytest.mark.parametrize("hz", [250, 330, 360, 400, 480, 525, 600, 900, 1000])
def test_another_rate_is_refused_however_lines_arrive_and_whenever_it_begins(hz):
    for text in (timed((hz, 1.0)), timed((500, 1.5), (hz, 1.0))):
        for at_once in (1, 7):
            with pytest.raises(StreamError, match=r"samples a second, expected 500") as found:
                arriving(text, at_once=at_once)
            assert found.value.reason == "rate"


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.0004), st.floats(0.985, 1.015))
def test_a_clock_that_trembles_or_drifts_a_little_is_no_gap_and_no_other_rate(seed, trembling, drift):
    rng = np.random.default_rng(seed)
    times = drift * np.arange(3000) / 500 + trembling * rng.uniform(-1, 1, 3000)
    clock = _Clock()
    found = [clock.stretches(part, line=1) for part in np.array_split(times, 7)]
    assert [(len(one), one[0][2]) for one in found] == [(1, 1)] * 7


def test_a_header_that_comes_alone_is_no_silence():
    samples = signal(0.2)
    text = as_table(samples)
    assert all(chunk.samples.shape[1] for chunk in arriving(text, at_once=1))


def test_records_that_wfdb_reads_otherwise_are_named(tmp_path):
    path = written(tmp_path, signal(1))
    header = path.with_suffix(".hea").read_text().splitlines()
    path.with_suffix(".hea").write_text("\n".join([header[0].replace(" 500 500", " 500"), *header[1:]]) + "\n")
    with pytest.raises(StreamError, match="does not say how long it is"):
        list(record(path))
    (tmp_path / "many.hea").write_text("many/2 12 500 1000\nr1 500\nr1 500\n")
    with pytest.raises(StreamError, match="is of several segments"):
        list(record(tmp_path / "many"))


def test_a_line_that_is_never_ended_is_no_silence():
    reading, writing = os.pipe()
    source = table(reading, stall_s=0.05)
    os.write(writing, as_table(signal(0.5)).encode())
    assert next(source).samples.shape[1] > 0
    os.write(writing, b"0.1,0.2")
    while (chunk := next(source)).samples.shape[1]:
        pass
    assert chunk.at == 250
    os.write(writing, b"0" * 60_000)
    with pytest.raises(StreamError, match="more than 16,384 bytes"):
        next(source)
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "# made by a recorder\n\n" + text,
        lambda text: text.replace("AVL", '"aVL"'),
    ],
    ids=["BOM", "CRLF", "CR", "comment", "quoted"],
)
def test_what_spreadsheets_make_of_a_table_is_read(change):
    samples = signal(1)
    np.testing.assert_allclose(joined(given_by(change(as_table(samples)))), samples, atol=1e-5)


def written(folder: Path, samples: np.ndarray, *, names=LEADS, hz: int = 500, unit: str = "mV") -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb 4.3 calls pandas in a way that warns
        import wfdb

        about = {"fs": hz, "units": [unit] * len(names), "sig_name": list(names), "fmt": ["16"] * len(names)}
        wfdb.wrsamp("r1", p_signal=samples.T.astype(float), write_dir=str(folder), **about)
    return folder / "r1"


def test_a_record_of_any_length_is_read_in_order(tmp_path):
    samples = signal(75)
    order = [LEADS.index(name) for name in LEADS[::-1]]
    found = list(record(written(tmp_path, samples[order], names=LEADS[::-1])))
    np.testing.assert_allclose(joined(found), samples, atol=1e-3)
    assert [chunk.at for chunk in found] == list(range(0, 75 * 500, 125))


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1e3), ("V", 1e-3)])
def test_a_unit_that_a_record_states_is_converted(tmp_path, unit, factor):
    samples = signal(1)
    np.testing.assert_allclose(joined(list(record(written(tmp_path, samples * factor, unit=unit)))), samples, atol=2e-3)


@pytest.mark.parametrize(
    ("changed", "reason", "words"),
    [
        ({"names": (*LEADS[:11], "X")}, "leads", "V6 missing"),
        ({"hz": 250}, "rate", "250 samples a second"),
        ({"unit": "mmHg"}, "units", "in mmHg, expected mV"),
        ({"unit": "NU"}, "units", "in NU, expected mV"),  # standardised, say: no volts
    ],
)
def test_a_record_of_another_kind_is_refused(tmp_path, changed, reason, words):
    with pytest.raises(StreamError, match=words) as found:
        list(record(written(tmp_path, signal(1), **changed)))
    assert found.value.reason == reason


def test_a_record_that_is_not_there_or_cut_off_is_refused(tmp_path):
    with pytest.raises(StreamError, match="no WFDB record"):
        list(record(tmp_path / "none"))
    path = written(tmp_path, signal(2))
    path.with_suffix(".dat").write_bytes(path.with_suffix(".dat").read_bytes()[:1000])
    with pytest.raises(StreamError, match="cannot be read"):
        list(record(path))


def test_the_generator_keeps_einthoven_s_law_and_its_length():
    samples = joined(list(generated(1.3)))
    leads = dict(zip(LEADS, samples, strict=True))
    assert samples.shape == (12, 650)
    np.testing.assert_allclose(leads["I"] + leads["III"], leads["II"], atol=0.1)  # but for the noise


# What is said


def test_a_window_s_probabilities_are_torch_s(fleet, device):
    samples = signal(5)
    found = judged(list(run(device, chunked(samples))))
    net = load_model(fleet.store(fleet.wearer(device.slot)).model_path)
    for one in found:
        at = round(one.since_s * 500)
        expected = probabilities(net(_tensor(samples[None, :, at : at + 500])), net.task).detach().numpy()
        np.testing.assert_allclose(one.probabilities, expected[0], atol=1e-4)
    assert [one.since_s for one in found] == [0.5 * number for number in range(9)]


def _tensor(array: np.ndarray):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def test_a_batch_is_judged_as_its_windows_are(device):
    bundle, samples = load(standing(device)), signal(3).reshape(12, 3, 500).swapaxes(0, 1).copy()
    each = np.concatenate([bundle.probabilities(samples[[number]]) for number in range(3)])
    np.testing.assert_allclose(bundle.probabilities(samples), each, atol=1e-6)


def says(label: str, value: float) -> np.ndarray:
    rest = (1 - value) / 4
    return np.array([value if name == label else rest for name in SUPERCLASSES], dtype=np.float32)


def episodes(values: list[float | None], label: str = "CD", *, settings: Streaming) -> list[tuple[str, int, int]]:
    smoother, found = Smoother(settings), []
    for number, value in enumerate(values):
        if value is None:
            ended = smoother.doubt()
        else:
            _, ended = smoother.add(says(label, value), since=number, until=number + 1)
        found += [(one.label, one.since, one.until) for one in ended]
    return found + [(one.label, one.since, one.until) for one in smoother.reset()]


SHORT = replace(Streaming(), smoothing_windows=2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.9] * 5, [("CD", 1, 5)]),
        ([0.9, 0.1, 0.9, 0.1], []),  # on average not sure
        ([0.9, 0.9, 0.3, 0.9, 0.3], [("CD", 1, 5)]),  # does not flicker between the two limits
        ([0.9, 0.9, 0.1, 0.1, 0.9, 0.9], [("CD", 1, 3), ("CD", 5, 6)]),
        ([0.9, 0.9, None, 0.9], [("CD", 1, 4)]),  # one inconclusive window is bridged
        ([0.9, 0.9, None, None, 0.9], [("CD", 1, 2)]),  # as many as are averaged are not
        ([0.9], []),  # half a mean alarms nobody
    ],
)
def test_an_episode_begins_and_ends_by_the_mean(values, expected):
    assert episodes(values, settings=SHORT) == expected


@pytest.mark.parametrize(("apart", "alarmed"), [(250, True), (1500, False)])
def test_what_is_averaged_lies_near(apart, alarmed):
    """Conclusive windows far apart, with inconclusive ones between them, are no mean over the last seconds."""
    smoother = Smoother(LIMITS)
    for number in range(12):
        smoother.add(says("CD", 0.9), since=number * apart, until=number * apart + 500)
    assert bool(smoother.open) == alarmed


def test_after_a_gap_and_with_another_model_the_mean_begins_anew(fleet, device):
    settings = replace(Streaming(), alarm_on=0.0, alarm_off=0.0, hop_s=1.0)
    samples = signal(16)
    spaced = [Chunk(at, samples[:, at : at + 125]) for at in range(0, 8000, 125) if not 3900 <= at < 4500]
    means = [one for one in run(device, spaced, settings=settings) if isinstance(one, Judged | Missing)]
    place = next(number for number, one in enumerate(means) if isinstance(one, Missing))
    first = means[place + 1]
    np.testing.assert_allclose(first.mean, first.probabilities)

    def withdrawing():
        for chunk in chunked(samples):
            if chunk.at == 4000:
                fleet.registry.withdraw(fleet.wearer(device.slot).id)
            yield chunk

    events = list(run(device, withdrawing(), settings=replace(settings, check_s=0.0)))
    place = [number for number, one in enumerate(events) if isinstance(one, Using)][1]
    assert all(isinstance(one, Over) for one in events[place - 4 : place])
    first = next(one for one in events[place:] if isinstance(one, Judged))
    np.testing.assert_allclose(first.mean, first.probabilities)


def test_a_model_that_gives_no_number_is_not_believed(device, monkeypatch):
    monkeypatch.setattr(Bundle, "probabilities", lambda *_: np.full((1, 5), np.nan, dtype=np.float32))
    assert {one.doubts for one in judged(list(run(device, chunked(signal(3)))))} == {("the model gives no number",)}


def test_a_session_has_one_thread_that_does_not_spin_and_no_arena(device):
    options = load(standing(device)).session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads, options.enable_cpu_mem_arena) == (1, 1, False)
    for pool in ("intra_op", "inter_op"):
        assert options.get_session_config_entry(f"session.{pool}.allow_spinning") == "0"


EDGES = {
    "flat": lambda _, by: np.where(np.arange(500) % 2, 0.0, by * LIMITS.flat_mv),
    "noisy": lambda row, by: row + np.where(np.arange(500) % 2, 0.0, by * LIMITS.noise_mv),
    "saturated": lambda _, by: np.where(np.arange(500) // 30 == 7, by * LIMITS.clipped_mv, np.sin(np.arange(500)) / 50),
    "out of range": lambda _, by: by * LIMITS.range_mv * np.arange(500) / 499,
}


@pytest.mark.parametrize("word", EDGES)
def test_limits_are_where_the_settings_have_them(word):
    smooth = {"V3": 0.2 * np.sin(np.arange(500) / 20)}
    for by, bad in ((0.9, word == "flat"), (1.1, word != "flat")):
        found = doubts(spoilt("V3", lambda _, __, by=by: EDGES[word](smooth["V3"], by)), LIMITS)
        assert found == ((f"V3: {word}",) if bad else ())


def test_a_healthy_heart_is_no_episode():
    assert episodes([0.99] * 5, "NORM", settings=SHORT) == []


def test_alarms_begin_and_episodes_end_in_the_events(device):
    settings = replace(Streaming(), smoothing_windows=1, alarm_on=0.0, alarm_off=0.0)
    events = list(run(device, chunked(signal(3)), settings=settings))
    alarms, over = ([one for one in events if isinstance(one, kind)] for kind in (Alarm, Over))
    assert {one.label for one in alarms} == {one.label for one in over} == set(SUPERCLASSES) - {"NORM"}
    assert {(one.since_s, one.until_s, one.windows) for one in over} == {(0.0, 3.0, 5)}


def test_every_event_is_a_line_of_json_with_its_name(device):
    samples = np.concatenate([signal(3), np.full((12, 1000), np.nan, dtype=np.float32)], axis=1)
    lines = [json.dumps(as_json(event), allow_nan=False) for event in run(device, chunked(samples))]
    names = [json.loads(line)["event"] for line in lines]
    assert (names[0], names[-1], set(names[1:-1])) == ("bundle", "end", {"window"})
    said = [json.loads(line) for line in lines if '"window"' in line]
    assert set(said[0]["probabilities"]) == set(SUPERCLASSES)
    assert (said[-1]["inconclusive"], said[-1]["probabilities"]) == (True, {})


# The command


def lethe(*words: object, **more: object):
    return CliRunner().invoke(cli, ["devices", "run", *map(str, words)], **more)


def test_the_command_runs_a_record_and_prints_what_is_rare(fleet, device, cohort_folder):
    path = next((cohort_folder / "records500").rglob("*.hea"))
    done = lethe("--record", path.with_suffix(""), "--home", fleet.workspace.home, "--device", 0, "--speed", 0)
    assert done.exit_code == 0
    first, *_, last = done.stdout.splitlines()
    assert first.split() == ["personal", "model,", "bundle", standing(device).manifest.bundle[:12]]
    assert last.startswith("00:10.00 end: ")
    assert sum(int(word) for word in last.split()[2:] if word.isdigit()) == 19


def test_the_command_tells_json_and_falls_back_when_the_patient_withdraws(fleet):
    fleet.registry.withdraw(fleet.wearer(0).id)
    done = lethe("--generate", 3, "--home", fleet.workspace.home, "--speed", 0, "--hop", 1, "--json")
    first, *windows, last = map(json.loads, done.stdout.splitlines())
    assert (first["event"], first["kind"]) == ("bundle", "general")
    assert "withdrawn" in first["why"]
    assert [one["since_s"] for one in windows if one["event"] == "window"] == [0.0, 1.0, 2.0]
    assert last == {"event": "end", "seconds": 3.0, "judged": 3, "inconclusive": 0}


def test_the_command_reads_stdin_and_ends_with_an_error_s_code(fleet, device):
    home = fleet.workspace.home
    command = [sys.executable, "-m", "simulations.entry", "devices", "run"]
    program = [sys.executable, "-c", "from simulations.entry import main; main()", *command[3:], "--csv", "-",
               "--home", str(home), "--speed", "0"]  # fmt: skip
    done = subprocess.run(program, input=as_table(signal(3)), capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "00:03.00 end: 5 windows judged, 0 inconclusive")
    done = subprocess.run(program, input=as_table(signal(3) / 1000), capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (5, 1)
    assert done.stderr.startswith("error: the samples look like volts")
    (device.folder / "bundle.onnx").write_bytes(b"another")
    done = subprocess.run(program, input=as_table(signal(3)), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "")
    assert "is not the file that was signed" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--generate", "1", "--csv", "-"],
        ["--generate", "1", "--lead", "V9"],
        ["--generate", "nan"],
        ["--generate", "inf"],
        ["--generate", "1", "--hop", "nan"],
        ["--generate", "1", "--speed", "inf"],
    ],
    ids=" ".join,
)
def test_a_request_that_makes_no_sense_is_refused(fleet, words):
    done = lethe(*words, "--home", fleet.workspace.home)
    assert type(done.exception).__name__ == "UsageError"


def test_a_closed_stdin_is_named(fleet):
    program = "from simulations.entry import main; main()"
    words = ["devices", "run", "--csv", "-", "--home", str(fleet.workspace.home)]
    command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "stdin is closed" in done.stderr) == (5, True)


@pytest.mark.parametrize("number", [signal_numbers.SIGINT, signal_numbers.SIGTERM])
def test_ctrl_c_ends_a_stream_as_its_own_end_does(fleet, number):
    """Nothing is left open: the end is told, and what was going on before it."""
    program = "from simulations.entry import main; main()"
    words = ["devices", "run", "--generate", "600", "--json", "--home", str(fleet.workspace.home)]
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as going:
        first = [json.loads(going.stdout.readline()) for _ in range(2)]
        going.send_signal(number)
        rest, said = going.communicate(timeout=60)
    assert [one["event"] for one in first] == ["bundle", "window"]
    assert json.loads(rest.splitlines()[-1])["event"] == "end"
    assert (going.returncode, said) == (0, "")


def drawn(view: View, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(view.frame(*room(console.size)))
    return console.export_text().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 22), (200, 60)])
def test_the_live_view_fits_its_terminal_and_shows_the_newest(width, height):
    view = View(3, lead="II")
    list(view.watched(chunked(signal(6))))
    for number in range(9):
        view.take(Missing(number, number + 0.5))
    lines = drawn(view, width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert "00:08.00 gap" in lines[-2]
    assert any(0x2801 <= ord(character) < 0x2900 for line in lines for character in line[-6:])


def test_the_live_view_says_nothing_of_a_gap():
    view = View(3, lead="II")
    view.take(Judged(0, 1, (), (0.9, 0.1, 0, 0, 0), (0.9, 0.1, 0, 0, 0)))
    assert {"no alarm", "0.90"} <= set(re.findall(r"no alarm|0\.\d\d", "\n".join(drawn(view, 80, 24))))
    list(view.watched([Chunk(0, np.ones((12, 500), np.float32)), Chunk(1500, np.ones((12, 500), np.float32))]))
    view.take(Missing(1, 3))
    text = "\n".join(drawn(view, 80, 24))
    assert "gap: samples are missing" in text
    assert not re.search(r"no alarm|0\.\d\d", text)
    assert np.isnan(view._wave).sum() == 1000
    view.take(Judged(3, 4, (), (0.8, 0.2, 0, 0, 0), (0.8, 0.2, 0, 0, 0)))
    assert "no alarm" in "\n".join(drawn(view, 80, 24))


def test_the_live_view_shows_the_wave_the_probabilities_and_what_happened(fleet, tmp_path):
    done = lethe("--generate", 6, "--home", fleet.workspace.home, "--speed", 0, "--picture", tmp_path / "live.svg")
    assert done.exit_code == 0
    svg = (tmp_path / "live.svg").read_text()
    words = ("device&#160;0", "personal&#160;model", *SUPERCLASSES, "lead&#160;II", "no&#160;alarm", "00:06.00")
    for word in words:
        assert word in svg
    assert "http" not in svg.replace("http://www.w3.org", "").replace("https://www.textualize.io", "")
    assert any(0x2800 < ord(character) < 0x2900 for character in svg)


def test_a_curve_hangs_together_and_what_is_missing_is_left_out():
    lines = trace(np.linspace(0, 1, 400, dtype=np.float32), columns=10, rows=4).splitlines()
    assert [len(line) for line in lines] == [10] * 4
    assert (lines[0][0], lines[3][9]) == (chr(0x2800), chr(0x2800))
    assert lines[3][0] != chr(0x2800) != lines[0][9]
    half = np.concatenate([np.full(200, np.nan), np.linspace(0, 1, 200)]).astype(np.float32)
    assert all(line[:5] == chr(0x2800) * 5 for line in trace(half, columns=10, rows=4).splitlines())
    assert set(trace(np.full(9, np.nan, dtype=np.float32), columns=4, rows=2)) == {chr(0x2800), "\n"}


def test_the_view_draws_before_anything_is_known():
    view = View(3, lead="II")
    assert view.frame() is not None
    view.take(Using("general", "b" * 64, "g" * 64, "why"))
    assert told(Using("general", "b" * 64, "g" * 64, "why")).split() == [
        "general",
        "model,",
        "bundle",
        "b" * 12 + ":",
        "why",
    ]


@pytest.mark.real
def test_a_real_patient_s_record_runs(device, real_data):
    path = real_data / "ptbxl-mini" / "records500" / "00000" / "00017_hr"
    events = list(run(device, record(path)))
    assert [one.until_s for one in judged(events)] == [1 + 0.5 * number for number in range(19)]
    assert all(not one.doubts for one in judged(events))


def test_the_python_of_the_documentation_runs(fleet, device, monkeypatch, capsys):
    text = (Path(__file__).parent.parent / "docs" / "DEVICE.md").read_text()
    with_lethe, without = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(fleet.workspace.home.parent)
    fleet.workspace.home.rename("lethe-home")
    exec(with_lethe, {})  # fleet devices are 0 to 3
    assert len(capsys.readouterr().out.splitlines()) == 19
    monkeypatch.chdir(Path("lethe-home") / "devices" / "0")
    found: dict[str, np.ndarray] = {}
    exec(without, found)
    assert found["probabilities"].shape == found["margins"].shape == (1, 5)
    assert device.slot == 0
