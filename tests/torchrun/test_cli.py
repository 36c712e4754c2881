import json

import numpy as np
import pandas as pd
import pytest
import torch

from layerprobe.cli import main
from layerprobe.paper import execute, load_model, read_run

from .cli_job import AUDIT, INTERRUPTED, PROBE, TRAIN

NET = """
from torch import nn
from layerprobe.training import seeded

def build():
    with seeded(0):
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
"""


def here(folder):
    """Fill a folder with a user's network and rows."""
    generator = np.random.default_rng(0)
    centres = 3 * generator.standard_normal((3, 6))
    for name, n in (("train", 61), ("held", 43)):
        y = np.arange(n) % 3
        x = (centres[y] + generator.standard_normal((n, 6))).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=np.where(generator.random(n) < 0.3, (y + 1) % 3, y))
    (folder / "job_net.py").write_text(NET)
    return folder


@pytest.fixture(scope="module")
def job(torchrun, tmp_path_factory):
    """The folder, and what each of two processes said."""
    folder = here(tmp_path_factory.mktemp("job"))
    result = torchrun("cli_job.py", folder)
    assert result.returncode == 0, result.stderr
    return folder, *(json.loads((folder / f"{k}.json").read_text()) for k in (0, 1))


def test_two_processes_train_a_grid_and_only_the_first_writes_and_prints(job, tmp_path, capsys, monkeypatch):
    folder, first, second = job
    code, said, told = first["train"]
    assert (code, second["train"]) == (0, [0, "", ""])
    assert "1 at a time on 2 processes" in told
    assert [run["state"] for run in json.loads(said)["runs"]] == ["done", "done"]
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--seeds", "0", "1", "--jobs", "1", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    for run in alone["runs"]:
        a, b = (read_run(root / "runs" / run["folder"]) for root in (tmp_path, folder))
        assert a.spec == b.spec
        assert {p.name for p in a.folder.rglob("*")} == {p.name for p in b.folder.rglob("*")}
        np.testing.assert_allclose(b.history["loss"], a.history["loss"], rtol=1e-4)
        weights = (load_model(one.folder).state_dict() for one in (a, b))
        for p, q in zip(*(w.values() for w in weights), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-4)
        assert len(b.record["sessions"]) == 1


def test_finished_grid_is_not_changed(job):
    _, first, second = job
    assert json.loads(first["again"][1])["runs"] == json.loads(first["train"][1])["runs"]
    assert second["again"] == [0, "", ""]


def test_one_process_resumes_the_grid_of_two(job):
    folder, first, second = job
    assert first["interrupted"] is second["interrupted"] is True
    run = execute(INTERRUPTED, folder / "runs")
    assert run.done
    assert [(s["processes"], s["epochs_before"]) for s in run.record["sessions"]] == [(2, 0), (1, 1)]
    assert len(run.history) == 2


def test_commands_that_processes_cannot_share_are_refused(job):
    for said in job[1:]:
        assert said["jobs"][0] == said["stacked"][0] == said["demo"][0] == 2
        assert "leave out --jobs" in said["jobs"][2]
        assert "leave out --stacked" in said["stacked"][2]
        assert "can share audit, probe and paper train" in said["demo"][2]
    assert not (job[0] / "demo").exists()


def test_two_processes_audit_and_only_the_first_writes_and_prints(job, tmp_path, capsys, monkeypatch):
    folder, first, second = job
    code, said, told = first["audit"]
    assert (code, second["audit"]) == (0, [0, "", ""])
    assert told.startswith("reading ...")
    assert first["dry"][0] == second["dry"][0] == 0
    assert json.loads(first["dry"][1])
    assert second["dry"][1] == ""
    monkeypatch.chdir(here(tmp_path))
    assert main(AUDIT) == 0
    expected, found = json.loads(capsys.readouterr().out), json.loads(said)
    for each in (expected, found):
        each.pop("seconds", None)
        each.pop("cost", None)
    assert found == expected
    for name in ("issues.csv", "layers.csv", "controls.csv", "noise.json"):
        assert (folder / "audit" / name).read_bytes() == (tmp_path / "audit" / name).read_bytes()


def test_two_processes_probe_like_one(job, tmp_path, capsys, monkeypatch):
    _, first, second = job
    assert (first["probe"][0], second["probe"]) == (0, [0, "", ""])
    monkeypatch.chdir(here(tmp_path))
    assert main(PROBE) == 0
    rows, expected = (
        pd.DataFrame(json.loads(said)["rows"]).drop(columns="seconds")
        for said in (first["probe"][1], capsys.readouterr().out)
    )
    pd.testing.assert_frame_equal(rows, expected, rtol=1e-14, atol=0)
