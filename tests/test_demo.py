import json
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from layerprobe import demo
from layerprobe.cli import main
from layerprobe.errors import InputError
from layerprobe.probes import available
from layerprobe.training import Recipe

PAGES = ["audit.html", "report.html", "review.html"]
FILES = [*PAGES, "figure.png", "figure.svg", "history.csv", "rows.csv", "run.json"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The command as a user runs it: one seed at 60 %, into a folder that holds other files."""
    out = tmp_path_factory.mktemp("made") / "demo"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    (out / "rows.csv").write_text("old")
    arguments = ["demo", "--seeds", "1", "--variance", "0.9", "--out", str(out), "--json"]
    script = f"import sys; from layerprobe.cli import main; sys.exit(main({arguments}))"
    start = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return SimpleNamespace(
        out=out,
        seconds=time.monotonic() - start,
        summary=json.loads(ended.stdout),  # which fails if anything else is on stdout
        stderr=ended.stderr,
        rows=pd.read_csv(
            out / "rows.csv", keep_default_na=False, na_values={"components": "", "seconds": ""}
        ),
        history=pd.read_csv(out / "history.csv"),
    )


def test_network_memorises_noisy_labels_and_masc_on_a_layer_is_more_accurate(run):
    assert run.history["train_accuracy"].iloc[-1] >= 0.999
    assert run.history["true_accuracy"].iloc[-1] == pytest.approx(0.46, abs=0.03)
    network = run.rows[run.rows["probe"] == "network"].set_index(["split", "labels"])["accuracy"]
    assert network["train", "noisy"] >= 0.99
    assert 0.4 < network["test", "true"] < 0.7
    tests = run.rows[run.rows["split"] == "test"].set_index(["layer", "probe", "fitted_on"])["accuracy"]
    assert tests["fc1", "masc", "noisy"] > network["test", "true"] + 0.1
    assert tests["fc1", "masc", "true"] > 0.95


def test_rows_and_history_are_tidy_and_contain_every_probe(run):
    assert list(run.rows.columns[:4]) == ["corruption", "seed", "layer", "probe"]
    assert list(run.history.columns[:4]) == ["corruption", "seed", "epoch", "loss"]
    assert run.rows["layer"].unique().tolist() == ["input", "fc1", "fc2", "fc3", "output"]
    assert set(run.rows["probe"]) == {"network", *available()}
    assert set(run.rows["fitted_on"]) == {"noisy", "true", ""}
    assert not run.rows.duplicated(["layer", "probe", "fitted_on", "split", "labels"]).any()


def test_audit_of_the_first_network_finds_wrong_labels(run):
    audit = run.summary["audit"]
    assert audit["wrong"] == pytest.approx(0.54, abs=0.03)
    assert audit["precision"] > 0.85  # flags at random: .54
    assert audit["recall"] > 0.7
    assert "of the labels are wrong" in audit["finding"]


def test_variance_option_reaches_masc(run):
    components = run.rows[(run.rows["probe"] == "masc") & (run.rows["layer"] == "input")]["components"]
    assert components.between(1, 20).all()  # 99 % would keep about 32 of 64


def test_demo_writes_its_files_and_keeps_others(run):
    assert sorted(path.name for path in run.out.iterdir()) == sorted([*FILES, "mine.txt"])
    assert [path.name for path in run.out.parent.iterdir()] == ["demo"]
    made_of = json.loads((run.out / "run.json").read_text())
    assert made_of["spec"]["corruption"] == 0.6
    assert set(made_of["seeds"]["0"]) == {"noise", "init", "order"}
    assert run.summary["finding"] in (run.out / "report.html").read_text("utf-8")


def test_summary_agrees_with_the_rows_and_progress_is_short(run):
    assert run.summary["finding"].startswith("With 60 % of its training labels redrawn")
    assert run.summary["networks"][0]["epochs"] == len(run.history)
    assert run.summary["networks"][0]["memorised"] is True
    (own,) = (line["mean"] for line in run.summary["test_accuracy"] if line["probe"] == "network")
    assert own == run.history["test_accuracy"].iloc[-1]
    learnt = f"{100 * run.history['train_accuracy'].iloc[-1]:.1f} % of its labels learnt"
    *before, last = run.stderr.splitlines()
    assert last == f"seed 0: done, epoch {len(run.history)}, {learnt}"
    assert len(before) <= run.seconds / 60  # one a minute, on a busy machine


def demo_of(rows_of_seeds, reached):
    history = pd.DataFrame(
        {
            "corruption": 0.6,
            "seed": [0, 0, 1, 1],
            "epoch": [1, 2, 1, 2],
            "train_accuracy": [0.5, reached, 0.5, 1.0],
            "test_accuracy": [0.9, 0.6, 0.7, 0.5],
            "seconds": 1.0,
        }
    )
    audit = demo.DemoAudit("About half of the labels are wrong.", 600, 0.98, 0.75, 0.54)
    return demo.Demo(demo.Spec(seeds=2), rows_of_seeds, history, audit, seconds=4.0)


def test_networks_table_shows_last_and_best_epoch(run):
    networks = demo_of(run.rows, reached=0.98).networks().set_index("seed")
    assert networks["memorised"].tolist() == [False, True]
    assert networks["epochs"].tolist() == [2, 2]
    assert networks["best_epoch"].tolist() == [1, 1]
    assert networks["best_test_accuracy"].tolist() == [0.9, 0.7]
    assert networks["test_accuracy"].tolist() == [0.6, 0.5]


def test_command_prints_table_finding_and_unfinished_networks(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_demo", lambda spec, out: demo_of(run.rows, reached=0.98))
    assert main(["demo", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Test accuracy in %" in printed
    assert "The network of seed 0 did not reach its target" in printed
    assert "seed 1 did not" not in printed
    assert "reached 80.0 %" in printed
    assert "With 60 % of its training labels redrawn" in printed
    assert "About half of the labels are wrong." in printed
    assert "98.0 % of the 600 flagged labels are wrong, and 75.0 % of the wrong labels are flagged" in printed


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_demo_leaves_no_files(tmp_path, monkeypatch, error):
    class Stopped:
        def __init__(self, **_):
            pass

        def map(self, *_):
            raise error

        def shutdown(self, **_):
            pass

    monkeypatch.setattr("loky.ProcessPoolExecutor", Stopped)
    with pytest.raises(error):
        demo.run_demo(demo.Spec(), tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corruption": 1.5}, r"corruption.*\[0, 1\], got 1.5"),
        ({"corruption": np.nan}, "corruption.*got nan"),
        ({"seeds": 0}, "seeds.*at least 1, got 0"),
        ({"variance": 0.0}, "variance.*above 0 and up to 1, got 0.0"),
    ],
)
def test_invalid_settings_raise(arguments, message):
    with pytest.raises(InputError, match=message):
        demo.Spec(**arguments)


def test_file_instead_of_folder_raises_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "demo"):
        with pytest.raises(InputError, match="file is a file"):
            demo.run_demo(demo.Spec(), out)


def test_recipe_of_the_demo():
    assert Recipe("adam", learning_rate=1e-3, batch_size=32, target=0.999, max_epochs=500) == demo.RECIPE
