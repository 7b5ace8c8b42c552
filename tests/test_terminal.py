"""What is printed is what was meant: paths stay whole, brackets are no markup, and only tables are fitted."""

import json
import os
import signal
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table
from rich.text import Text

from shared.interrupts import signals_interrupt
from shared.terminal import note, progress, said, show

LONG = "/somewhere/" + "a folder with a long name/" * 9 + "[bold]report[/nonsense] [1].html"


@pytest.mark.parametrize(
    "drawn",
    [LONG, Text(LONG), Group(Text("first"), Text(LONG, no_wrap=True, overflow="ignore"))],
    ids=["string", "text", "line of a page"],
)
def test_a_path_is_one_line_as_it_is(capsys, drawn):
    show({}, as_json=False, render=lambda: drawn)
    assert LONG in capsys.readouterr().out.splitlines()


def test_several_lines_stay_several_lines(capsys):
    show({}, as_json=False, render=lambda: f"next: lethe run\n{LONG}")
    assert capsys.readouterr().out == f"next: lethe run\n{LONG}\n"


def test_a_table_is_fitted_to_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    table = Table("path")
    table.add_row(Text(LONG))
    show({}, as_json=False, render=lambda: table)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 60


def test_json_is_asked_for_and_nothing_is_drawn(capsys):
    show({"path": LONG}, as_json=True, render=lambda: pytest.fail("drawn"))
    assert json.loads(capsys.readouterr().out) == {"path": LONG}


def test_a_note_is_one_line_on_stderr_as_it_is(capsys):
    note(LONG)
    assert capsys.readouterr() == ("", LONG + "\n")


def test_an_interrupt_that_got_lost_in_somebody_s_code_ends_the_work_at_the_next_step():
    """As NumPy's C code does, which clears what is raised while it looks for an attribute."""
    with signals_interrupt(), progress("working", 5) as tell:
        tell(1)
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            tell(2)
        tell(3)  # once is enough: what cleans up is not stopped again
    with signals_interrupt(), progress("working", 1) as tell, suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    with progress("working", 1) as tell:
        tell(1)  # the next command is not ended by it


DRAWN = {
    "string": lambda text: text,
    "text": Text,
    "line": lambda text: Group(Text(text, no_wrap=True, overflow="ignore")),
}


@pytest.mark.parametrize("drawn", DRAWN)
def test_no_text_reaches_a_terminal_as_a_command(capsys, drawn):
    @settings(suppress_health_check=list(HealthCheck))
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
    def check(text: str) -> None:
        show({}, as_json=False, render=lambda: DRAWN[drawn](text))
        note(text)
        show({text: [text]}, as_json=True, render=lambda: "")
        out, err = capsys.readouterr()
        assert not {letter for letter in out + err if letter < " " or "\x7f" <= letter <= "\x9f"} - {"\n", "\t"}
        assert not {letter for letter in out + err if "\u202a" <= letter <= "\u202e"}

    check()


@pytest.mark.parametrize("letter", ["\x1b", "\x9b", "\x07", "\r", "\u202e"])
def test_what_a_terminal_obeys_is_marked_in_a_table_too(capsys, letter):
    table = Table("id")
    table.add_row(Text(f"7{letter}[2J"))
    show({}, as_json=False, render=lambda: table)
    assert letter not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text", "expected"),
    [
        (["jobs", "list"], "`lethe run` takes it up", "`lethe run` takes it up"),
        (["jobs", "list", "--home", "a b"], "`lethe run` takes it up", "`lethe run --home 'a b'` takes it up"),
        (
            ["jobs", "list", "--home=h"],
            "`lethe jobs list` and `lethe run`",
            "`lethe jobs list --home h` and `lethe run --home h`",
        ),
        (["run", "--home", "h"], "`lethe run --home h` does", "`lethe run --home h` does"),
        (["run", "--home", "h"], "`lethe data check DIR`, `lethe --debug`", "`lethe data check DIR`, `lethe --debug`"),
        (["run", "--home", "h"], "`chmod 600 x`", "`chmod 600 x`"),
    ],
)
def test_a_command_that_is_named_has_the_home_of_this_one(monkeypatch, arguments, text, expected):
    monkeypatch.setattr("sys.argv", ["lethe", *arguments])
    assert said(text) == expected
