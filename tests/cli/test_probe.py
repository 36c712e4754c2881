"""`layerprobe probe`: the table of probe() from files and user code."""

import json

import numpy as np
import pandas as pd
import pytest

from layerprobe import plan, probe
from layerprobe.cli import main

CODE = """
from torch import nn
from layerprobe.training import seeded

def build():
    with seeded(0):
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

def lengths(texts):
    import torch
    return torch.tensor([[float(len(text)), *[text.count(letter) for letter in "abcde"]] for text in texts])
"""
MODEL = ["probe", "--model", "users_net:build"]
NAMES = np.array(["cat", "ant", "bee"])


@pytest.fixture
def data(here):
    """Training and test rows as .npz files, labels as numbers and names; arrays to compare with."""
    (here / "users_net.py").write_text(CODE)
    generator = np.random.default_rng(0)
    centres = 3 * generator.standard_normal((3, 6))
    true = np.arange(90) % 3
    x = (centres[true] + generator.standard_normal((90, 6))).astype(np.float32)
    given = np.where(generator.random(90) < 0.3, (true + 1) % 3, true)
    np.savez(here / "train.npz", x=x[:60], y=given[:60])
    np.savez(here / "test.npz", x=x[60:], y=true[60:])
    np.savez(here / "named.npz", x=x[:60], y=NAMES[given[:60]])
    np.save(here / "true.npy", true[:60])
    pd.DataFrame({"label": NAMES[true[:60]]}).to_csv(here / "true.csv", index=False)
    (here / "junk.npy").write_text("junk")
    np.save(here / "float.npy", true[:60] / 1.0)
    (here / "gap.csv").write_text("label\n1\n\n2\n")
    np.savez(here / "other.npz", x=x[60:], y=true[60:] + 5)
    return x, given, true


def model():
    import users_net

    return users_net.build()


def same(found, expected):
    columns = ["layer", "probe", "fitted_on", "split", "labels", "accuracy", "components"]
    found = found[columns].fillna({"fitted_on": ""}).astype({"accuracy": float})
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected)[columns], check_dtype=False)


def test_rows_equal_those_of_probe(data, here, capsys):
    x, given, true = data
    more = ["--test", "test.npz", "--true-labels", "true.npy", "--probes", "masc", "ncm"]
    assert main([*MODEL, "--data", "train.npz", *more, "--variances", "0.5", "0.99"]) == 0
    expected = probe(
        model(),
        (x[:60], given[:60]),
        (x[60:], true[60:]),
        train_labels={"given": given[:60], "true": true[:60]},
        probes=["masc", "ncm"],
        variances=[0.5, 0.99],
    )
    same(pd.read_csv(here / "probe" / "rows.csv"), expected)
    assert sorted(path.name for path in (here / "probe").iterdir()) == [
        "figure.png",
        "figure.svg",
        "rows.csv",
    ]
    printed = capsys.readouterr()
    assert "masc 0.99" in printed.out
    assert "probe/rows.csv" in printed.out
    assert printed.err == "probing 60 rows and 30 test rows ...\n"


def test_class_names_give_the_order_of_the_outputs(data, here):
    x, given, true = data
    named = ["--data", "named.npz", "--true-labels", "true.csv", "--class-names", *NAMES]
    assert main([*MODEL, *named, "--out", "named"]) == 0
    labels = {"given": given[:60], "true": true[:60]}
    same(pd.read_csv(here / "named" / "rows.csv"), probe(model(), (x[:60], given[:60]), train_labels=labels))
    assert main([*MODEL, "--data", "named.npz", "--out", "sorted"]) == 0
    rows = pd.read_csv(here / "sorted" / "rows.csv")
    network = rows[rows["probe"] == "network"]["accuracy"].item()
    place = np.argsort(np.argsort(NAMES))  # of each class among the names as they sort
    expected = probe(model(), (x[:60], place[given[:60]]))
    assert network == expected[expected["probe"] == "network"]["accuracy"].item()


def test_texts_and_selected_layers(data, here):
    rows = pd.DataFrame({"text": ["ab" * (i % 5) + "c" for i in range(24)], "label": np.arange(24) % 3})
    rows.to_csv(here / "rows.csv", index=False)
    assert (
        main([*MODEL, "--data", "rows.csv", "--inputs", "users_net:lengths", "--layers", "1", "output"]) == 0
    )
    assert set(pd.read_csv(here / "probe" / "rows.csv")["layer"]) == {"1", "output"}


def test_dry_run_prints_the_plan_and_writes_nothing(data, here, capsys):
    x, given, true = data
    options = [*MODEL, "--data", "train.npz", "--test", "test.npz", "--true-labels", "true.npy", "--dry-run"]
    assert main([*options, "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    changed = float(np.mean(given[:60] != true[:60]))
    expected = plan(model(), (x[:60], given[:60]), test_rows=30, label_sets=2, changed=changed)
    assert (counted["rows"], counted["test_rows"], counted["classes"]) == (60, 30, 3)
    assert (counted["held"], counted["streamed"]) == (expected.held, expected.streamed)
    assert main(options) == 0
    assert capsys.readouterr().out == f"{expected!r}\n"
    assert not (here / "probe").exists()
    assert main([*options, "--memory", "1kB"]) == 2
    assert "the budget is" in capsys.readouterr().err


def test_json_is_the_only_output(data, capsys):
    assert main([*MODEL, "--data", "train.npz", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["probe"] for row in rows} == {"masc", "network"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "none.npz"], "none.npz"),
        (["--data", "train.npz", "--true-labels", "none.npy"], "none.npy does not exist"),
        (["--data", "train.npz", "--true-labels", "train.npz"], "expected an .npy or a .csv file of labels"),
        (["--data", "test.npz", "--true-labels", "true.npy"], "true.npy has 60 labels for 30 rows of --data"),
        (["--data", "train.npz", "--true-labels", "junk.npy"], "holds no array of numbers or texts"),
        (["--data", "train.npz", "--true-labels", "float.npy"], "got float64 (60,)"),
        (["--data", "train.npz", "--true-labels", "gap.csv"], "gap.csv has 2 labels for 60 rows of --data"),
        (["--data", "train.npz", "--true-labels", "true.csv"], "--true-labels are names"),
        (["--data", "named.npz", "--true-labels", "true.npy"], "--true-labels are numbers"),
        (["--data", "train.npz", "--test", "other.npz"], "no label of --test occurs in --data"),
        (["--data", "train.npz", "--probes", "mask"], "mask"),
        (["--data", "train.npz", "--layers", "fc9"], "fc9"),
        (["--data", "train.npz", "--variances", "99"], "variance"),
        (["--data", "train.npz", "--out", "train.npz"], "is a file; choose another folder"),
        (["--data", "named.npz", "--test", "test.npz", "--class-names", "cat", "ant"], "'bee'"),
    ],
)
def test_invalid_argument_is_reported_and_nothing_is_written(data, here, capsys, arguments, said):
    before = sorted(here.iterdir())
    assert main([*MODEL, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before
