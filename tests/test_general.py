"""The general model: from consented records only, by seed, published whole, and not trained twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from enrolled import model_of
from fleet import TINY
from ptbxl_files import room_for

from server.corpus import open_corpus, segments_of
from server.crops import Crops
from server.general import evaluate, public_segments, train_general
from server.learning import fit_general, schedule
from shared.errors import DataError
from shared.metrics import scores
from shared.model import build, probabilities, to_bytes
from shared.package import Package, Public, load_general
from shared.settings import General, Probe

SHORT = TINY.with_values({"general.max_segments": 256})


@pytest.fixture
def corpus(fleet):
    return open_corpus(fleet.workspace, fleet.registry, fleet.settings)


def patients_of(corpus, rows):
    return {corpus.signals.records[row].patient for row in rows}


def test_parts_are_by_patient_and_no_wearer_is_in_any(fleet, corpus):
    parts = [patients_of(corpus, rows) for rows in (corpus.training, corpus.validation, corpus.control)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts))
    wearers = {patient.id for patient in fleet.wearers()}
    assert not wearers & set().union(*parts)
    assert parts[2] == {patient.id for patient in fleet.registry.patients("control")}
    assert patients_of(corpus, range(len(corpus.signals.records))) == set().union(*parts)


@pytest.mark.parametrize("role", ["corpus", "control"])
def test_a_withdrawn_record_is_not_opened(fleet, role):
    row = fleet.registry.records(role=role)[0]
    fleet.registry.withdraw(row.patient, records=[row.id])
    later = open_corpus(fleet.workspace, fleet.registry, fleet.settings)
    assert row.id not in {record.id for record in later.signals.records}


def test_too_little_to_train_on_is_said(fleet):
    for patient in fleet.registry.patients("corpus"):
        fleet.registry.withdraw(patient.id)
    with pytest.raises(DataError, match="0 usable records that consent allows, expected at least 2"):
        open_corpus(fleet.workspace, fleet.registry, fleet.settings)


@pytest.mark.parametrize(
    ("values", "same"), [({}, True), ({"general.seed": 1}, False), ({"general.dropout": 0.5}, False)]
)
def test_a_model_depends_on_data_settings_and_seed_alone(corpus, values, same):
    def train(settings):
        torch.rand(3)  # the global generator has no say
        return to_bytes(fit_general(corpus, settings, tell=lambda *_: None)[0])

    settings = SHORT.with_values({"general.mixup": 0.3, "general.noise_sd": 0.1, "general.lead_dropout": 0.1})
    assert (train(settings.general) == train(settings.with_values(values).general)) == same


def test_it_learns_and_its_curves_have_a_row_an_epoch(fleet):
    (folder,) = fleet.workspace.models.iterdir()
    record = json.loads((folder / "curves.json").read_text())
    assert [row["epoch"] for row in record["curves"]] == list(range(1, len(record["curves"]) + 1))
    assert record["curves"][-1]["train_loss"] < 0.8 * record["curves"][0]["train_loss"]
    assert all(0 <= row["validation_accuracy"] <= 1 for row in record["curves"])


def test_what_is_published_is_whole_and_says_what_it_was_made_of(fleet, corpus):
    (folder,) = fleet.workspace.models.iterdir()
    assert Package.open(folder).digest == folder.name
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["data"] == corpus.signals.digest
    assert lineage["records"] == len(corpus.signals.records)
    assert lineage["general"] == vars(fleet.settings.general)
    assert model_of(fleet.registry, folder.name).lineage == lineage
    model, _ = load_general(folder)
    sample = np.stack([corpus.signals.millivolts(int(row)) for row in corpus.training[:500]])
    np.testing.assert_allclose(model.lead_sd, sample.std(axis=(0, 2)), rtol=1e-4)


def test_a_model_of_this_lineage_is_not_trained_again(fleet):
    told = []
    again = train_general(fleet.workspace, fleet.registry, fleet.settings, tell=lambda *step: told.append(step))
    assert again.reused
    assert told == []
    assert again.record["metrics"]


def test_other_settings_make_another_model_and_keep_the_first(fleet):
    other = train_general(fleet.workspace, fleet.registry, SHORT, tell=lambda *_: None)
    assert not other.reused
    assert len(list(fleet.workspace.models.iterdir())) == 2
    assert train_general(fleet.workspace, fleet.registry, fleet.settings, tell=lambda *_: None).reused


def test_a_folder_without_weights_is_cleared_and_trained_anew(fleet):
    (folder,) = fleet.workspace.models.iterdir()
    before = Package.open(folder)
    (folder / "model.safetensors").unlink()  # a crash while publishing: the weights come last
    (fleet.workspace.models / "half").mkdir()
    again = train_general(fleet.workspace, fleet.registry, fleet.settings, tell=lambda *_: None)
    assert not again.reused
    assert Package.open(folder) == before
    assert list(fleet.workspace.models.iterdir()) == [folder]


def test_a_full_disk_while_publishing_never_leaves_weights_beside_other_public_segments(fleet):
    (folder,) = fleet.workspace.models.iterdir()
    fewer = fleet.settings.with_values({"personalisation.anchor_segments": 8})  # the weights are the same
    with room_for(200_000), pytest.raises(OSError, match=r"too large.*public\.safetensors"):
        train_general(fleet.workspace, fleet.registry, fewer, tell=lambda *_: None)
    again = train_general(fleet.workspace, fleet.registry, fewer, tell=lambda *_: None)
    assert (again.digest, again.reused) == (folder.name, False)
    _, public = load_general(folder)
    assert len(public.anchor) == 8


def test_public_segments_come_from_their_own_patients(corpus):
    public = public_segments(build(TINY.general).eval(), corpus, TINY)
    for rows, part in (
        (corpus.training, public.anchor),
        (corpus.validation, public.gate),
        (corpus.control, public.control),
    ):
        known = {segment.numpy().tobytes() for segment in segments_of(corpus.signals, rows).segments}
        drawn = [segment.numpy().tobytes() for segment in part.segments]
        assert set(drawn) <= known
        assert len(set(drawn)) == len(drawn) == 12


def test_public_segments_travel_with_what_the_general_model_makes_of_them(corpus):
    model = build(TINY.general).eval()
    public = Public.from_bytes(public_segments(model, corpus, TINY).to_bytes())
    for part, features in ((public.anchor, public.anchor_features), (public.gate, public.gate_features)):
        with torch.inference_mode():
            torch.testing.assert_close(features, model.trunk(part.segments))


def test_no_more_public_segments_are_drawn_than_there_are(corpus):
    settings = replace(TINY.with_values({"personalisation.gate_segments": 10_000}), probe=Probe(control_segments=0))
    public = public_segments(build(TINY.general).eval(), corpus, settings)
    assert len(public.gate) == 10 * len(corpus.validation)
    assert len({segment.numpy().tobytes() for segment in public.gate.segments}) == len(public.gate)
    assert len(public.control) == 0


def test_segments_are_record_by_record(corpus):
    rows = corpus.control[:2]
    examples = segments_of(corpus.signals, rows)
    assert examples.segments.shape == (20, 12, 500)
    first = corpus.signals.millivolts(int(rows[1]))
    np.testing.assert_allclose(examples.segments[13].numpy(), first[:, 1500:2000], rtol=1e-6)
    assert len(segments_of(corpus.signals, rows[:0])) == 0


def test_a_record_s_prediction_is_the_mean_over_its_segments(corpus):
    model = build(General(width=4)).eval()
    found = evaluate(model, corpus.signals, corpus.control)
    examples = segments_of(corpus.signals, corpus.control)
    with torch.inference_mode():
        chance = probabilities(model(examples.segments), "single").numpy()
    labels = corpus.signals.labels[corpus.control]
    assert found["record"] == pytest.approx(scores(chance.reshape(-1, 10, 5).mean(1), labels, task="single"))
    assert found["segment"]["n"] == 10 * found["record"]["n"]
    assert evaluate(model, corpus.signals, corpus.control[:0])["record"]["n"] == 0


def test_every_record_comes_ten_times_before_any_comes_again(corpus):
    settings = replace(SHORT.general, batch_size=10)
    rows = corpus.training[:4]
    crops = Crops(corpus.signals, rows, settings, torch.ones(12))
    drawn = torch.cat([crops.draw()[2] for _ in range(4)])
    expected = torch.from_numpy(corpus.signals.labels[np.repeat(rows, 10)])
    assert torch.equal(drawn.sum(0), expected.sum(0))


def test_blended_labels_stay_a_distribution(corpus):
    settings = replace(SHORT.general, mixup=0.5)
    segments, labels, first = Crops(corpus.signals, corpus.training, settings, torch.ones(12)).draw()
    assert segments.shape == (64, 12, 500)
    torch.testing.assert_close(labels.sum(1), torch.ones(64))
    assert torch.equal(labels.argmax(1), first.argmax(1))  # the larger part is named


@pytest.mark.parametrize(
    ("records", "values", "expected"),
    [
        (100, {"epochs": 3, "batch_size": 100}, (3, 30)),
        (100, {"epochs": 3, "batch_size": 100, "max_segments": 1500}, (1, 15)),
        (100, {"epochs": 3, "batch_size": 100, "max_segments": 50}, (1, 1)),
        (1, {"epochs": 5, "batch_size": 1000}, (1, 1)),
    ],
)
def test_the_schedule(records, values, expected):
    assert schedule(records, General(**values)) == expected


def test_a_run_that_has_to_stop_is_told_as_failed(fleet):
    for patient in fleet.registry.patients("corpus"):
        fleet.registry.withdraw(patient.id)
    with pytest.raises(DataError):
        fleet.run()
    assert fleet.registry.runs()[-1].status == "failed"
