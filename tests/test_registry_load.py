"""Commands of several processes at once: nothing is lost. How long each takes is the benchmark's to say."""

import pytest

from simulations.registry_load import measure


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    if request.param == "sqlite":
        yield None
        return
    server = request.getfixturevalue("postgresql")
    with server.database() as name:
        yield server.url(name)


@pytest.mark.slow
def test_patients_enrolled_and_withdrawn_by_four_processes_are_all_there(tmp_path, url):
    found = measure(tmp_path, patients=40, withdrawals=8, processes=4, url=url)
    assert found["lost"] == found["findings"] == []
    counts = {name: found[name] for name in ("commands", "enrolled", "withdrawn", "jobs", "slots", "feeds")}
    assert counts == {"commands": 48, "enrolled": 40, "withdrawn": 8, "jobs": 8, "slots": 40, "feeds": 40}
