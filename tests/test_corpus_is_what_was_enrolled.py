"""What the general model is made of: the very files that were enrolled, under the labels of the tables."""

import json
import os
import shutil
from collections import Counter

import pytest
from fleet import Fleet, copied
from ptbxl_files import change_rows, changed_sample, header

from server.corpus import open_corpus
from server.general import train_general
from shared.errors import DataError
from shared.ptbxl import index, load, record_digest


@pytest.fixture
def hospital(tmp_path, trained_home, cohort_folder):
    """A fleet with a general model, whose data folder may be changed."""
    home = copied(trained_home, tmp_path / "home")
    data = copied(cohort_folder, tmp_path / "data")
    manifest = home / "workspace.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"data": str(data)}))
    fleet = Fleet(home)
    yield fleet
    fleet.close()


def opened(fleet):
    return open_corpus(fleet.workspace, fleet.registry, fleet.settings)


def records_of(fleet, role):
    """The role's records as the tables describe them."""
    ids = {row.id for row in fleet.registry.records(role=role)}
    return [record for record in opened(fleet).signals.records if record.id in ids]


def put_in_the_place_of(folder, victim, other):
    """Overwrite a record's signal by another's, keeping name, size and times; the header fits the new signal."""
    kept = [(folder / f"{victim.path}{suffix}").stat() for suffix in (".hea", ".dat")]
    text = header(folder, other).read_text()
    name = victim.path.rpartition("/")[2]
    header(folder, victim).write_text(text.replace(other.path.rpartition("/")[2], name))
    shutil.copyfile(folder / f"{other.path}.dat", folder / f"{victim.path}.dat")
    for suffix, stat in zip((".hea", ".dat"), kept, strict=True):
        os.utime(folder / f"{victim.path}{suffix}", ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_other_labels_make_another_model(hospital):
    before = opened(hospital).signals.digest

    def relabel(rows):
        for row in rows:
            row["scp_codes"] = row["scp_codes"].replace("NORM", "IMI")

    change_rows(hospital.workspace.data, relabel)
    assert opened(hospital).signals.digest != before
    assert not train_general(hospital.workspace, hospital.registry, hospital.settings, tell=lambda *_: None).reused


@pytest.mark.parametrize("role", ["control", "wearable"])
def test_nobody_s_waveform_enters_under_another_record_s_name(hospital, role):
    data, victim = hospital.workspace.data, records_of(hospital, "corpus")[3]
    ids = {row.id for row in hospital.registry.records(role=role)}
    other = next(record for record in index(data).records if record.id in ids)
    hospital.registry.withdraw(other.patient)
    put_in_the_place_of(data, victim, other)
    signals = opened(hospital).signals
    assert victim.id not in {record.id for record in signals.records}
    assert [(one.record, one.reason) for one in signals.left_out] == [(victim.id, "changed since enrolment")]
    assert f"record {victim.id} has other files than were enrolled" in signals.left_out[0].detail
    stolen = (data / f"{other.path}.dat").read_bytes()
    at_lead = [stolen[start : start + 240] for start in range(0, 2400, 240)]
    cached = b"".join(path.read_bytes() for path in hospital.workspace.cache.iterdir())
    assert not any(piece in cached for piece in at_lead)


def test_a_left_out_record_is_counted_in_the_result_and_told_by_the_training(hospital):
    victim = records_of(hospital, "corpus")[0]
    changed_sample(hospital.workspace.data, victim)
    run = hospital.run()
    result = json.loads((hospital.workspace.reports / run.name / "result.json").read_text())
    assert result["data"]["left_out"]["changed since enrolment"] == 1
    again = train_general(hospital.workspace, hospital.registry, hospital.settings, tell=lambda *_: None)
    assert (again.reused, [one.record for one in again.left_out]) == (True, [victim.id])


def test_a_file_that_is_put_back_is_used_again_and_its_model_is_the_old_one(hospital):
    victim = records_of(hospital, "corpus")[0]
    path = hospital.workspace.data / f"{victim.path}.dat"
    before, content = opened(hospital).signals.digest, path.read_bytes()
    changed_sample(hospital.workspace.data, victim)
    assert opened(hospital).signals.digest != before
    path.write_bytes(content)
    assert opened(hospital).signals.digest == before


@pytest.mark.parametrize(
    ("change", "reason"), [("unlink", "missing file"), ("delist", "not in the table"), ("unlabel", "no superclass")]
)
def test_no_enrolled_record_goes_missing_in_silence(hospital, change, reason):
    data, victim = hospital.workspace.data, records_of(hospital, "control")[0]
    if change == "unlink":
        (data / f"{victim.path}.dat").unlink()
    elif change == "delist":
        change_rows(data, lambda rows: rows.remove(next(row for row in rows if row["ecg_id"] == victim.id)))
    else:
        change_rows(
            data, lambda rows: [row.update(scp_codes="{'SR': 0.0}") for row in rows if row["ecg_id"] == victim.id]
        )
    left_out = Counter(one.reason for one in (*opened(hospital).signals.left_out, *index(data).left_out))
    assert left_out == {reason: 1}


def test_nothing_that_is_as_enrolled_is_an_error(hospital):
    for row in hospital.registry.records():
        record = next(one for one in index(hospital.workspace.data).records if one.id == row.id)
        changed_sample(hospital.workspace.data, record)
    with pytest.raises(DataError, match=r"none of .* records can be used.*other files than were enrolled"):
        opened(hospital)


def test_a_file_that_changes_while_it_is_read_stops_the_start(tmp_path, hospital, monkeypatch):
    data = hospital.workspace.data
    records = index(data).records[:3]
    enrolled = {record.id: record_digest(data, record) for record in records}
    swapped = []

    def swapping(stem, **about):
        from shared.waveforms import read_waveform

        if not swapped:
            swapped.append(put_in_the_place_of(data, records[0], records[1]))
        return read_waveform(stem, **about)

    monkeypatch.setattr("shared.ptbxl_cache.read_waveform", swapping)
    with pytest.raises(DataError, match=r"record 1 changed while they were read"):
        load(records, folder=data, cache=tmp_path / "cache", enrolled=enrolled)
    assert not list((tmp_path / "cache").glob("*.samples"))
