"""A bit of the registry's file changes, or a hand changes a row: what was withdrawn is never given back by that."""

import base64
import json
from pathlib import Path

import pytest
from databases import by_hand
from enrolled import digests, enrol

from server.history_check import refuse_contradicted
from server.registry import Registry
from shared.errors import DamagedError, LetheError, WorkspaceError
from shared.notice import FOLDER, Notice
from shared.revocation import list_path

RECORDS = ("7100001", "7100002", "7100003")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


def gone(registry: Registry) -> set[str]:
    return {row.id for row in registry.records(consented_only=False) if row.withdrawn}


def test_no_bit_of_a_withdrawal_can_be_another_unseen(path):
    """Each is in a table and in its index; whoever flips a bit of one has the two differ."""
    with Registry.create(path) as registry:
        enrol(registry, "70", role="wearable", records=digests(*RECORDS), slot=0)
        with by_hand(path) as database:
            tables = dict(database.execute("SELECT name, rootpage FROM sqlite_master").fetchall())
        registry.withdraw("70", records=RECORDS[:2])
    sound = path.read_bytes()
    page = tables["withdrawals"] - 1
    size = int.from_bytes(sound[16:18])
    places = [at for name in RECORDS[:2] for at in _all(sound, name.encode(), page * size, (page + 1) * size)]
    assert places, "the withdrawals are not where they were looked for"
    for at in [at + offset for at in places for offset in range(len(RECORDS[0]))]:
        for bit in (1, 16):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ bit]) + sound[at + 1 :])
            with pytest.raises(DamagedError, match="is damaged or is no registry"):
                Registry.open(path)
    path.write_bytes(sound)
    with Registry.open(path) as registry:
        assert gone(registry) == set(RECORDS[:2])


def _all(data: bytes, part: bytes, start: int, end: int) -> list[int]:
    found = []
    while (start := data.find(part, start, end)) >= 0:
        found.append(start)
        start += 1
    return found


def test_a_file_that_lacks_its_last_byte_is_damaged(path):
    Registry.create(path).close()
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DamagedError):
        Registry.open(path)
    assert path.read_bytes() == content[:-1]


def test_a_version_that_is_no_text_is_damage(path):
    Registry.create(path).close()
    with by_hand(path) as database:
        database.execute("UPDATE meta SET value = x'ff00fe' WHERE name = 'schema'")
    with pytest.raises(DamagedError, match="does not say which version"):
        Registry.open(path)


@pytest.mark.parametrize("put", ["'{x'", "'7'", "7"])
@pytest.mark.parametrize("column", ["records", "detail"])
def test_a_job_that_is_no_job_is_damage_and_no_bug(path, column, put):
    with Registry.create(path) as registry:
        enrol(registry, "70", role="wearable", records=digests(*RECORDS), slot=0)
        registry.withdraw("70")
        with by_hand(path) as database:
            database.execute(f"UPDATE jobs SET {column} = {put}")
        with pytest.raises(DamagedError, match=r"a field is .*, expected JSON"):
            registry.jobs()


def test_a_fact_that_is_none_is_damage(path):
    with Registry.create(path) as registry:
        registry.remember("general", {"digest": "a"})
        with by_hand(path) as database:
            database.execute("UPDATE meta SET value = '{' WHERE name = 'fact:general'")
        with pytest.raises(DamagedError, match=r"its fact 'general' is '\{', expected JSON"):
            registry.recall("general")


@pytest.mark.parametrize("role", ["wearable", "corpus"])
def test_nothing_is_made_where_consent_contradicts_its_history(fleet, role):
    patient = fleet.with_several_records() if role == "wearable" else fleet.registry.patients("corpus")[0]
    record = fleet.records(patient)[0]
    fleet.registry.withdraw(patient.id, records=[record])
    with by_hand(fleet.workspace.registry_path) as database:
        (guard,) = database.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'withdrawals' AND sql LIKE '%DELETE%'"
        ).fetchall()
        database.execute("DROP TRIGGER " + guard[0].split()[2])
        database.execute("DELETE FROM withdrawals")
        database.execute(guard[0])
    before = {slot: fleet.store(fleet.wearer(slot)).state for slot in range(4)}
    sent = len(fleet.grid.sent)
    with pytest.raises(DamagedError, match=f"has withdrawn record {record} is told otherwise by the history"):
        fleet.run()
    assert {slot: fleet.store(fleet.wearer(slot)).state for slot in range(4)} == before
    assert len(fleet.grid.sent) == sent


def test_who_withdraws_while_the_history_is_compared_contradicts_nothing(fleet, monkeypatch):
    patient, real, calls = fleet.with_several_records(), Registry.records, []

    def records(self, *asked, **named):
        found = real(self, *asked, **named)
        calls.append(len(found))
        if len(calls) == 1:  # between the tables and the history
            self.withdraw(patient.id)
        return found

    monkeypatch.setattr(Registry, "records", records)
    refuse_contradicted(fleet.registry)
    assert len(calls) == 2


# Consent that is given again, and its word


@pytest.fixture
def forgotten(fleet):
    """A fleet and a wearer of whom one record was withdrawn and forgotten."""
    patient = fleet.with_several_records()
    record = fleet.records(patient)[0]
    fleet.registry.withdraw(patient.id, records=[record])
    fleet.run()
    return fleet, patient, record


def signed(fleet, slot) -> dict:
    return json.loads(base64.b64decode(json.loads(list_path(fleet.workspace.home, slot).read_bytes())["payload"]))


@pytest.mark.parametrize("step", ["revoke", "lift"])
def test_killed_while_consent_is_given_again_no_list_says_less_than_the_registry(forgotten, monkeypatch, step):
    fleet, patient, record = forgotten
    before = signed(fleet, patient.slot)

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        if step == "revoke":
            patch.setattr("server.consent_book.revoke", die)
        else:
            patch.setattr(Notice, "lift", die)
        with pytest.raises(Killed):
            fleet.registry.consent_again(patient.id, records=[record])
    notice = Notice(fleet.workspace.home / FOLDER / str(patient.slot))
    assert record not in gone(fleet.registry)  # consent is durable, and the device is held back until it hears of it
    assert notice.records() == {record}
    assert signed(fleet, patient.slot)["serial"] >= before["serial"]
    assert fleet.registry.consent_again(patient.id, records=[record]) == []
    assert notice.records() == frozenset()
    assert (signed(fleet, patient.slot)["records"], signed(fleet, patient.slot)["serial"]) == ([], 2)
    fleet.run()
    assert record in fleet.store(patient).record_ids()


def test_a_commit_that_fails_leaves_word_and_list_as_they_were(forgotten, monkeypatch):
    fleet, patient, record = forgotten
    before = signed(fleet, patient.slot)

    def full(*_, **__):
        raise WorkspaceError("the disk is full; nothing was changed")

    with monkeypatch.context() as patch:
        patch.setattr("server.consent.history.enter_consent", full)
        with pytest.raises(LetheError, match="nothing was changed"):
            fleet.registry.consent_again(patient.id, records=[record])
    assert gone(fleet.registry) == {record}
    assert Notice(fleet.workspace.home / FOLDER / str(patient.slot)).records() == {record}
    assert signed(fleet, patient.slot) == before


def test_word_that_cannot_be_taken_back_is_told_and_the_command_again_does_it(forgotten, monkeypatch):
    fleet, patient, record = forgotten

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("server.consent_book.revoke", full)
        with pytest.raises(WorkspaceError, match=f"consent is given, and the word left for device {patient.slot} can"):
            fleet.registry.consent_again(patient.id, records=[record])
    assert gone(fleet.registry) == set()
    assert fleet.registry.consent_again(patient.id) == []
    assert Notice(fleet.workspace.home / FOLDER / str(patient.slot)).records() == frozenset()


def test_a_list_that_still_names_a_record_is_signed_anew_where_no_word_is_left(forgotten):
    fleet, patient, record = forgotten
    notice = fleet.workspace.home / FOLDER / str(patient.slot)
    notice.unlink()
    assert fleet.registry.consent_again(patient.id) == [record]
    assert signed(fleet, patient.slot)["records"] == []


def test_word_that_nobody_can_read_is_told_and_not_passed_over(forgotten):
    fleet, patient, record = forgotten
    notice = fleet.workspace.home / FOLDER / str(patient.slot)
    notice.unlink()
    notice.mkdir()
    with pytest.raises(WorkspaceError, match="consent is given, and the word left"):
        fleet.registry.consent_again(patient.id, records=[record])
