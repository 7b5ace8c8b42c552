"""The ECG in a report goes when the consent of the patient whose it is goes, in earlier reports too."""

import numpy as np
import pytest
from fleet import Fleet, copied

from server.pictures import withhold
from server.report import build
from simulations import main_job


@pytest.fixture
def used(tmp_path, first_run_home):
    found = Fleet(copied(first_run_home, tmp_path / "home"))
    yield found
    found.close()


def test_an_earlier_report_loses_the_ecg_of_a_control_who_withdraws(used):
    folder = used.workspace.reports / "run-0"
    page = build(folder)
    with np.load(folder / "figures.npz") as file:
        record, segment = str(file["record"]), file["clean"]
    (shown,) = [row for row in used.registry.records(role="control") if row.id == record]
    others = {row.patient for row in used.registry.records(role="control")} - {shown.patient}
    used.registry.withdraw(sorted(others)[0])
    assert withhold(used.workspace.reports, used.registry) == []  # somebody else's withdrawal changes nothing
    assert page.exists()

    used.registry.withdraw(shown.patient)
    used.run()
    assert not page.exists()
    assert segment.tobytes() not in (folder / "figures.npz").read_bytes()
    with np.load(folder / "figures.npz") as file:
        assert file.files == []
    main_job.tidy(used.workspace)
    assert "has withdrawn" in page.read_text()
    with np.load(used.workspace.reports / "run-1" / "figures.npz") as file:
        assert str(file["record"]) in {row.id for row in used.registry.records(role="control")}
