import numpy as np
import pandas as pd
import pytest

from layerprobe import History

from . import history_job


@pytest.fixture(scope="module")
def job(tmp_path_factory, torchrun):
    out = tmp_path_factory.mktemp("job")
    result = torchrun("history_job.py", out)
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.parametrize("name", ["steps", "passes"])
def test_both_processes_get_the_history_of_one(job, name):
    expected = history_job.histories()[name]
    for process in (0, 1):
        found = History.load(job / f"{name}.{process}")
        pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), rtol=1e-9)
        pd.testing.assert_frame_equal(found.curves, expected.curves)
        np.testing.assert_allclose(found.margins, expected.margins, rtol=1e-5)
