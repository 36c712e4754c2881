import json

import pandas as pd
import pytest
import torch

from layerprobe.core.moments import ClassMoments

from . import probing_job as probing


@pytest.fixture(scope="module", autouse=True)
def small_buffer():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassMoments, "buffer_rows", probing.small_buffer)
        yield


@pytest.fixture(scope="module")
def job(tmp_path_factory, torchrun):
    out = tmp_path_factory.mktemp("job")
    result = torchrun("probing_job.py", out)
    assert result.returncode == 0, result.stderr
    return out


def test_moments_of_two_processes_are_those_of_one(job):
    expected = probing.moments()
    first, second = (torch.load(job / f"{k}.pt", weights_only=True) for k in (0, 1))
    assert first["counts"].tolist() == second["counts"].tolist() == [36, 16, 7, 1, 0]
    for found in (first, second):
        assert (found["moments"] - expected["moments"]).norm() <= 1e-12 * expected["moments"].norm()
        assert torch.equal(found["empty"], expected["empty"])
    assert expected["moments"].norm() > 1


@pytest.mark.parametrize("route", ["held", "streamed", "dataset", "loader", "shuffled", "one row"])
def test_both_processes_get_the_table_of_one(job, one_process, route):
    pd.testing.assert_frame_equal(read(job / f"{route}.0.csv"), read(job / f"{route}.1.csv"))
    found, expected = read(job / f"{route}.0.csv"), one_process[route]
    expected = pd.DataFrame(expected.drop(columns="seconds"))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-14, atol=0)


def test_processes_that_differ_are_refused(job):
    for k in (0, 1):
        network, labels = json.loads((job / f"refused.{k}.json").read_text())
        assert "the same network in every process" in network
        assert "the same training labels in every process" in labels


def read(path):
    return pd.read_csv(path, dtype={"reason": str}).fillna({"fitted_on": "", "reason": ""})


@pytest.fixture(scope="module")
def one_process():
    return probing.tables()
