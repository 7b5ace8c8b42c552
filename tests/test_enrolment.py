"""From a data folder to patients and feeds: by patient, all or nothing, nobody unreadable, nobody twice."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ptbxl_files import change_rows, copy_record, header

from server.enrolment import enrol_patient
from server.registry import Registry
from server.workspace import Workspace
from shared.errors import ConsentError, DataError, UsageError, WorkspaceError
from shared.ptbxl import index, record_digest
from shared.settings import Settings
from simulations.cohort import write_cohort
from simulations.enrol import enrol_cohort

SETTINGS = Settings().with_values({"cohort.wearables": 3, "cohort.controls": 2})


@contextmanager
def silent(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    assert label
    assert total is not None
    yield lambda _: None


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "data"
    write_cohort(folder, patients=14, seed=1)
    return folder


@pytest.fixture(scope="module")
def larger(tmp_path_factory) -> Path:
    """Another hospital's folder; its patients 15 to 18 are nobody in `cohort`."""
    folder = tmp_path_factory.mktemp("larger") / "data"
    write_cohort(folder, patients=18, seed=2)
    return folder


def enrolled(home: Path, data: Path) -> tuple[Workspace, dict]:
    with Workspace.building(home, data=data) as workspace:
        result = enrol_cohort(workspace, SETTINGS, progress=silent)
    return Workspace.open(home), result


@pytest.fixture
def workspace(tmp_path, cohort) -> Workspace:
    return enrolled(tmp_path / "home", cohort)[0]


def feed(workspace: Workspace, slot: int) -> dict:
    return json.loads(workspace.feed(slot).read_text())


def test_every_patient_is_enrolled_in_one_part_with_all_usable_records(tmp_path, cohort):
    workspace, result = enrolled(tmp_path / "home", cohort)
    known = index(cohort)
    usable = [record for record in known.records if len(record.superclasses) == 1]
    with Registry.open(workspace.registry_path) as registry:
        assert {(row.patient, row.id) for row in registry.records()} == {(r.patient, r.id) for r in usable}
        sizes = {role: len(registry.patients(role)) for role in ("corpus", "wearable", "control")}
        assert {row.id: row.sha256 for row in registry.records()} == {
            record.id: record_digest(cohort, record) for record in usable
        }
    assert sizes == result["patients"]
    assert (sizes["wearable"], sizes["control"]) == (3, 2)
    assert sum(result["records"].values()) == len(usable)
    assert sum(result["left_out"].values()) == len(known.records) - len(usable)
    assert (result["unit"], result["task"], result["data"]) == ("mV", "single", str(cohort))
    json.dumps(result)


def test_a_feed_says_what_its_own_patient_will_record_in_the_order_of_time(workspace, cohort):
    with Registry.open(workspace.registry_path) as registry:
        wearables, rows = registry.patients("wearable"), registry.records(role="wearable")
    assert sorted(path.name for path in workspace.feeds.iterdir()) == ["0.json", "1.json", "2.json"]
    for patient in wearables:
        content = feed(workspace, patient.slot)
        assert (content["data"], content["patient"]) == (str(cohort), patient.id)
        assert content["pseudonym"] == patient.pseudonym
        told = {entry["id"]: entry["sha256"] for entry in content["records"]}
        assert told == {row.id: row.sha256 for row in rows if row.patient == patient.id}
        times = [entry["recorded_at"] for entry in content["records"]]
        assert times == sorted(times)
        assert all((cohort / f"{entry['path']}.hea").exists() for entry in content["records"])


def test_two_enrolments_agree_on_everything_but_pseudonyms(tmp_path, cohort, workspace):
    again, _ = enrolled(tmp_path / "again", cohort)
    for slot in range(3):
        first, second = feed(workspace, slot), feed(again, slot)
        assert first.pop("pseudonym") != second.pop("pseudonym")
        assert first == second


def test_a_record_that_cannot_be_read_gets_no_device(tmp_path, cohort, workspace):
    data = tmp_path / "data"
    shutil.copytree(cohort, data)
    victim, other = feed(workspace, 0), feed(workspace, 1)
    for entry in (*victim["records"], other["records"][0]):
        (data / f"{entry['path']}.dat").unlink()
    spoilt, result = enrolled(tmp_path / "spoilt", data)
    with Registry.open(spoilt.registry_path) as registry:
        with pytest.raises(UsageError):
            registry.patient(victim["patient"])
        wearables = [patient.id for patient in registry.patients("wearable")]
        assert victim["patient"] not in wearables
        assert len(wearables) == 3
        held = {row.id for row in registry.records(other["patient"])}
        assert other["records"][0]["id"] not in held
    assert result["left_out"]["missing file"] == len(victim["records"]) + 1


@pytest.mark.parametrize(
    ("values", "spoil", "error"),
    [
        ({"cohort.wearables": 40}, None, UsageError),
        ({}, "ptbxl_database.csv", DataError),
        ({}, "scp_statements.csv", DataError),
    ],
)
def test_an_enrolment_that_fails_leaves_nothing(tmp_path, cohort, values, spoil, error):
    data = tmp_path / "data"
    shutil.copytree(cohort, data)
    if spoil:
        (data / spoil).unlink()
    settings = SETTINGS.with_values(values)

    def enrol() -> None:
        with Workspace.building(tmp_path / "home", data=data) as workspace:
            enrol_cohort(workspace, settings, progress=silent)

    with pytest.raises(error):
        enrol()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_workspace_is_filled_once(workspace):
    with pytest.raises(WorkspaceError, match="never overwritten"):
        enrol_cohort(workspace, SETTINGS, progress=silent)


# One more patient


def test_a_patient_from_another_folder_gets_the_next_device(workspace, larger):
    patient = enrol_patient(workspace, "15", data=larger)
    assert (patient.role, patient.slot, patient.status) == ("wearable", 3, "active")
    content = feed(workspace, 3)
    assert (content["data"], content["patient"], content["pseudonym"]) == (str(larger), "15", patient.pseudonym)
    with Registry.open(workspace.registry_path) as registry:
        assert {row.id for row in registry.records("15")} == {entry["id"] for entry in content["records"]}


@pytest.mark.parametrize("role", ["corpus", "control", "wearable"])
def test_a_patient_who_plays_a_part_gets_no_device(workspace, larger, role):
    with Registry.open(workspace.registry_path) as registry:
        patient = registry.patients(role)[0].id
    before = sorted(workspace.feeds.iterdir())
    for data in (None, larger):
        with pytest.raises(ConsentError, match=f"patient {patient}"):
            enrol_patient(workspace, patient, data=data)
    assert sorted(workspace.feeds.iterdir()) == before


def test_a_patient_who_withdrew_is_not_enrolled_again(workspace):
    with Registry.open(workspace.registry_path) as registry:
        patient = registry.patients("wearable")[0].id
        registry.withdraw(patient)
        with pytest.raises(ConsentError, match="has withdrawn"):
            enrol_patient(workspace, patient)
        assert len(registry.events(patient)) == 2


def test_recordings_that_are_enrolled_do_not_come_back_under_another_name(tmp_path, workspace, cohort):
    data = tmp_path / "renamed"
    shutil.copytree(cohort, data)
    table = data / "ptbxl_database.csv"
    head, *rows = table.read_text().splitlines()
    renamed = [",".join([(c := row.split(","))[0], f"{float(c[1]) + 100}", *c[2:]]) for row in rows]
    table.write_text("\n".join([head, *renamed]) + "\n")
    with Registry.open(workspace.registry_path) as registry:
        registry.withdraw("5")
    with pytest.raises(ConsentError, match=r"a recording of patient 105 is enrolled already.*patient 5"):
        enrol_patient(workspace, "105", data=data)


def test_a_recording_that_is_there_twice_is_enrolled_once_and_one_of_two_patients_never(tmp_path, cohort):
    data = tmp_path / "data"
    shutil.copytree(cohort, data)
    single = [record for record in index(data).records if len(record.superclasses) == 1]
    of = {patient: [r for r in single if r.patient == patient] for patient in {r.patient for r in single}}
    twice = max(of.values(), key=len)
    one, other = [own[-1] for own in of.values() if own is not twice][:2]
    copy_record(twice[0], twice[1], of=data, to=data)
    copy_record(one, other, of=data, to=data)
    workspace, result = enrolled(tmp_path / "home", data)
    assert result["left_out"]["same recording"] == 3
    with Registry.open(workspace.registry_path) as registry:
        held = {row.id for row in registry.records()}
    assert {twice[0].id, twice[1].id, one.id, other.id} & held == {twice[0].id}


@pytest.fixture
def withdrawn_again(tmp_path, workspace, cohort, larger):
    """A wearable's patient has withdrawn; a folder has the recording as a record of patient 15."""
    with Registry.open(workspace.registry_path) as registry:
        patient = registry.patients("wearable")[0].id
        gone = registry.records(patient)[0].id
        registry.withdraw(patient)
    data = tmp_path / "data"
    shutil.copytree(larger, data)
    new = next(r for r in index(data).records if r.patient == "15" and len(r.superclasses) == 1)
    record = next(r for r in index(cohort).records if r.id == gone)
    copy_record(record, new, of=cohort, to=data)
    return data, new, patient


def test_a_withdrawn_recording_does_not_come_back_under_another_file_name(workspace, withdrawn_again):
    data, _, patient = withdrawn_again
    with pytest.raises(ConsentError, match=rf"a recording of patient 15 is enrolled already.*patient {patient}"):
        enrol_patient(workspace, "15", data=data)


def test_a_withdrawn_recording_does_not_come_back_with_its_header_spelt_anew(workspace, withdrawn_again):
    data, new, patient = withdrawn_again
    path = header(data, new)
    first, *lines = path.read_text().splitlines()
    assert all("1000.0(0)/mV" in line for line in lines)
    respelt = [line.replace("1000.0(0)/mV", "1000/mV").replace(" ", "\t") for line in lines]
    path.write_text("\n".join([f"{first}.0 10:00:00 01/01/2001", *respelt, "# said again"]) + "\n")
    with pytest.raises(ConsentError, match=rf"a recording of patient 15 is enrolled already.*patient {patient}"):
        enrol_patient(workspace, "15", data=data)


def test_a_recording_under_two_patients_of_a_folder_is_enrolled_for_neither(tmp_path, workspace, larger):
    data = tmp_path / "data"
    shutil.copytree(larger, data)
    fit = {r.patient: r for r in index(data).records if r.patient in ("15", "16") and len(r.superclasses) == 1}
    copy_record(fit["15"], fit["16"], of=larger, to=data)
    for patient in ("15", "16"):
        told = []
        with suppress(DataError):  # where it was the only one
            enrol_patient(workspace, patient, data=data, tell=told.append)
        with Registry.open(workspace.registry_path) as registry:
            if patient in {known.id for known in registry.patients()}:
                assert fit[patient].id not in {row.id for row in registry.records(patient)}
                assert [one.record for one in told if one.reason == "same recording"] == [fit[patient].id]


def test_of_two_who_enrol_one_recording_at_the_same_moment_one_is_refused(tmp_path, workspace, larger, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(larger, data)
    fit = {r.patient: r for r in index(data).records if r.patient in ("15", "16") and len(r.superclasses) == 1}
    copy_record(fit["15"], fit["16"], of=larger, to=data)
    change_rows(data, lambda rows: rows.remove(next(row for row in rows if row["ecg_id"] == fit["15"].id)))
    enrol_many = Registry.enrol_many

    def after_somebody_else(registry, *words, **more):
        monkeypatch.setattr(Registry, "enrol_many", enrol_many)
        enrol_patient(workspace, "16", data=data)
        return enrol_many(registry, *words, **more)

    monkeypatch.setattr(Registry, "enrol_many", after_somebody_else)
    with pytest.raises(ConsentError, match=r"a recording of patient 15 is enrolled already.*patient 16"):
        enrol_patient(workspace, "15", data=larger)
    with Registry.open(workspace.registry_path) as registry:
        assert "15" not in {known.id for known in registry.patients()}


def test_an_unknown_patient_is_refused_with_a_way_out(workspace, larger):
    with pytest.raises(UsageError, match="--data names another folder"):
        enrol_patient(workspace, "nobody")
    with pytest.raises(UsageError, match=r"no patient '155' .* did you mean 15"):
        enrol_patient(workspace, "155", data=larger)


def test_records_that_cannot_be_used_are_told(tmp_path, workspace, larger):
    data = tmp_path / "data"
    shutil.copytree(larger, data)
    own = [r for r in index(data).records if r.patient in ("15", "16", "17", "18") and len(r.superclasses) == 1]
    patient = max({r.patient for r in own}, key=lambda p: sum(r.patient == p for r in own))
    own = [record for record in own if record.patient == patient]
    assert len(own) > 1
    (data / f"{own[0].path}.dat").unlink()
    told = []
    assert enrol_patient(workspace, patient, data=data, tell=told.append).records == len(own) - 1
    assert own[0].id in [one.record for one in told]


def test_a_patient_without_a_usable_record_is_refused_with_the_reasons(tmp_path, workspace, larger):
    data = tmp_path / "data"
    shutil.copytree(larger, data)
    for record in index(data).records:
        if record.patient == "15":
            (data / f"{record.path}.dat").unlink()
    with pytest.raises(
        DataError, match=r"none of the \d records? of patient 15 can be used: missing file.* has no file"
    ):
        enrol_patient(workspace, "15", data=data)
    assert not workspace.feed(3).exists()


def test_a_patient_in_another_unit_is_refused(tmp_path, workspace, larger):
    data = tmp_path / "data"
    shutil.copytree(larger, data)
    for path in data.rglob("*.hea"):
        path.write_text(path.read_text().replace("/mV", "/NU"))
    with pytest.raises(DataError, match="are in NU, this workspace's in mV"):
        enrol_patient(workspace, "15", data=data)


def test_patients_added_at_once_get_devices_and_feeds_of_their_own(workspace, larger):
    with ThreadPoolExecutor() as pool:
        added = list(pool.map(lambda p: enrol_patient(workspace, p, data=larger), ["15", "16", "17", "18"]))
    assert sorted(patient.slot for patient in added) == [3, 4, 5, 6]
    for patient in added:
        assert feed(workspace, patient.slot)["patient"] == patient.id


@pytest.mark.real
@pytest.mark.parametrize(("name", "unit"), [("ptbxl-mini", "mV"), ("ptbxl-standardised", "NU")])
def test_the_excerpts_of_ptb_xl_are_enrolled(tmp_path, name, unit):
    if "LETHE_REAL_DATA" not in os.environ:
        pytest.skip("LETHE_REAL_DATA names no folder with the PTB-XL excerpts")
    with Workspace.building(tmp_path / "home", data=Path(os.environ["LETHE_REAL_DATA"]) / name) as workspace:
        result = enrol_cohort(workspace, Settings(), progress=silent)
    assert (result["unit"], result["patients"]["wearable"], result["patients"]["control"]) == (unit, 24, 24)
    assert result["patients"]["corpus"] > 250
    assert result["left_out"].get("same recording", 0) == (3 if name == "ptbxl-mini" else 0)
