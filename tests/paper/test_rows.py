import pandas as pd
import pytest

from layerprobe.errors import DataError
from layerprobe.paper.experiments import EXPERIMENTS
from layerprobe.paper.rows import COLUMNS, MEASURE, read_rows, rows_path, tidy, with_run, write_rows


def test_rows_are_equal_after_writing_and_reading(memorised, tmp_path):
    rows = EXPERIMENTS["noisy_subspaces"].measure(memorised)
    write_rows(tmp_path, "noisy_subspaces", rows)
    pd.testing.assert_frame_equal(read_rows(tmp_path, "noisy_subspaces"), rows, check_exact=True)


def test_numbers_are_equal_to_the_last_bit(tmp_path):
    rows = tidy([{"metric": "accuracy", "value": 0.1 + 0.2}])
    write_rows(tmp_path, "x", rows)
    assert read_rows(tmp_path, "x")["value"].item() == 0.1 + 0.2


def test_missing_values_are_empty():
    rows = tidy([{"metric": "accuracy", "value": 1}])
    pd.testing.assert_frame_equal(rows, tidy(pd.DataFrame({"metric": ["accuracy"], "value": [1]})))
    assert list(rows) == MEASURE
    assert rows["layer"].item() == ""
    assert rows["epoch"].isna().item()


def test_rows_name_their_run(memorised):
    rows = with_run(memorised.spec, tidy([{"metric": "accuracy", "value": 1}]))[COLUMNS]
    assert list(rows) == COLUMNS
    first = rows.iloc[0]
    assert (first["pair"], first["corruption"], first["seed"], first["subset"]) == ("mlp-digits", 0.6, 0, 300)
    assert first["key"] == memorised.spec.key[:12]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", ",".join(MEASURE) + "\n" + "x," * 11 + "much\n"])
def test_damaged_rows_are_refused(tmp_path, content):
    path = rows_path(tmp_path, "probes")
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(DataError, match="Remove it"):
        read_rows(tmp_path, "probes")


def test_missing_rows_are_named(tmp_path):
    with pytest.raises(DataError, match=r"probes\.csv"):
        read_rows(tmp_path, "probes")
