"""The check of a GPU, shortened, on a CPU."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"


@pytest.fixture
def check():
    """The script with one small pair."""
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ORDER, module.STACKED, module.DEGREES = ("mlp-digits",), ("mlp-digits",), (0.4,)
    return module


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_results_are_written_and_not_repeated(check, tmp_path):
    command = ["--device", "cpu", "--out", str(tmp_path), "--only", "agreement", "stacked", "epoch", "cell"]
    assert check.main([*command, "--budget", "0"]) == 0
    assert [line["state"] for line in lines(tmp_path)] == ["started", "budget used up"]
    assert check.main([*command, "--budget", "200"]) == 0
    results = {line["step"]: line for line in lines(tmp_path) if line["state"] == "done"}
    assert list(results) == [
        "agreement",
        "stacked mlp-digits",
        "epoch mlp-digits",
        "cell small mlp-digits 0.4",
    ]
    assert results["agreement"]["result"]["masc_labels_equal_to_float64"] > 0.999
    assert results["stacked mlp-digits"]["result"]["largest_relative_difference"] < 1e-3
    measured = results["cell small mlp-digits 0.4"]["result"]
    assert 0.5 < measured["noisy"]["network"] <= 1
    assert 0.5 < measured["true"]["masc"] <= 1
    assert measured["noisy"]["published_masc"] is None
    assert "versions" in lines(tmp_path)[0]
    before = len(lines(tmp_path))
    assert check.main([*command, "--budget", "200"]) == 0
    assert [line["step"] for line in lines(tmp_path)[before:]] == ["start"]


def test_run_that_ends_with_the_budget_is_resumed(check, tmp_path):
    class Short(check.Budget):
        calls = 0

        def left(self):
            Short.calls += 1
            return 0 if Short.calls > 4 else 1

    budget = check.Budget
    check.Budget = Short
    command = ["--device", "cpu", "--out", str(tmp_path), "--only", "cell"]
    assert check.main([*command, "--budget", "1"]) == 0
    assert lines(tmp_path)[-1]["state"] == "budget used up"
    (history,) = tmp_path.glob("runs/mlp-digits/*/history.csv")
    assert len(history.read_text().splitlines()) > 1
    check.Budget = budget
    assert check.main([*command, "--budget", "200"]) == 0
    record = json.loads(history.with_name("run.json").read_text())
    assert [session["epochs_before"] > 0 for session in record["sessions"]] == [False, True]


def test_missing_data_and_failures_are_lines(check, tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERPROBE_DATA", str(tmp_path))
    check.ORDER = ("mlp-mnist",)
    assert check.main(["--device", "cpu", "--out", str(tmp_path), "--only", "cell"]) == 0
    assert lines(tmp_path)[-1]["state"] == "left out"
    assert "layerprobe data fetch mnist" in lines(tmp_path)[-1]["reason"]

    def fails(*_):
        raise ZeroDivisionError("no")

    check.agreement = fails
    assert check.main(["--device", "cpu", "--out", str(tmp_path), "--only", "agreement"]) == 1
    assert lines(tmp_path)[-1]["reason"] == "ZeroDivisionError: no"


def test_unknown_steps_are_refused(check, tmp_path):
    with pytest.raises(SystemExit):
        check.main(["--device", "cpu", "--out", str(tmp_path / "out"), "--only", "cells"])
    assert not (tmp_path / "out").exists()
