import json

import pytest

from layerprobe.utils.settings import one_thread

from .audit_job import AUDITS, HELD, X, results_of


@pytest.fixture(scope="module", autouse=True)
def as_many_threads_as_the_job():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def job(torchrun, tmp_path_factory):
    """Return the results that each of two processes wrote."""
    folder = tmp_path_factory.mktemp("job")
    result = torchrun("audit_job.py", folder)
    assert result.returncode == 0, result.stderr
    return [json.loads((folder / f"{k}.json").read_text()) for k in (0, 1)]


@pytest.mark.parametrize("name", AUDITS)
def test_audit_of_two_processes_equals_that_of_one(job, name):
    """To the last bit: every batch is run as by one process, and one process decides."""
    first, second = job
    alone = AUDITS[name]()
    expected = json.loads(json.dumps(results_of(alone)))
    assert str(first[name]) == str(expected)  # NaN is NaN
    assert str(second[name]) == str(expected)
    assert first[f"{name} predicted"] == alone.predict(X[HELD]).tolist()


def test_each_process_runs_its_batches_alone(job):
    first, second = job
    assert first["rows"] == second["rows"] == 101
    # Two rows tell the dimensions; 101 and 50 rows are 13 and 7 batches of up to eight, for two networks. The
    # first batch of each pass runs a second time without its last row, which shows where the rows are.
    assert (first["holdout ran"], second["holdout ran"]) == (
        5 + 2 * (53 + 26) + 4 * 7,
        5 + 2 * (48 + 24) + 4 * 7,
    )
    assert (first["views ran"], second["views ran"]) == (5 + 3 * (101 + 64), 5)


def test_different_inputs_of_processes_are_refused(job):
    first, second = job
    for seen in job:
        assert "'Fresh' cannot be sent" in seen["probe"]
        assert seen["labels"].startswith("InputError: expected the same rows and labels in every process")
    assert "InputError: the processes of the job read the data in different orders" in first["orders"]
    assert second["orders"].startswith("ProcessError: process 1 waited")
