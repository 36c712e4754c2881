"""Wrong values of every option of every command: one line on stderr, exit status 2, nothing written."""

import os

import numpy as np
import pytest

from layerprobe.cli import main

CODE = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
"""
PROBE = ["probe", "--model", "users_net:build", "--data", "rows.npz", "--dry-run"]
AUDIT = ["audit", "--model", "users_net:build", "--data", "rows.npz", "--policy", "noisy_holdout"]
AUDIT += ["--holdout", "held.npz", "--dry-run"]
TRAIN = ["paper", "train", "--pair", "mlp-digits", "--dry-run"]
REPRODUCE = ["reproduce", "table1", "--pair", "mlp-digits", "--dry-run"]
FILES = ["nope", "", "empty", "empty.csv", "empty.npz", "noise.csv", "noise.npz", "noise.npy", "folder"]
FILES += ["folder.csv", "pipe", "pipe.csv", "a" * 300, "nope:nope", "/dev/zero", "nul\0", "\x1b[31m"]
WHOLE = ["-1", "1.5", "1e400", "nan", "-inf", "", "abc"]
SHARES = ["-1", "2", "1e400", "nan", "-inf", "", "abc"]
PLACES = ["rows.npz", "rows.npz/x", "/dev/null/x", "a" * 300, "pipe"]
NAMES = ["", "nope"]
NUMBERS = ["--subset", "--test-subset", "--max-epochs", "--batch-size", "--edit-epoch", "--jobs"]
WORDS = ["--protocol", "--optimizer", "--device", "--backend", "--address"]
WRITERS = ["tables", "figures"]

SHARED = {  # by audit and probe
    "--model": [*FILES, "users_net", "users_net:build(", "json:dumps"],
    "--data": FILES,
    "--weights": FILES,
    "--inputs": NAMES,
    "--batch-size": ["0", *WHOLE],
    "--layers": ["", "nope", "["],
    "--device": ["", "gpu", "cuda:99", "-1"],
    "--pool": NAMES,
    "--resize": [["-1", "2"], ["0", "0"], ["1"], ["a", "b"]],
    "--label-column": NAMES,
    "--text-column": NAMES,
    "--path-column": NAMES,
    "--class-names": NAMES,
    "--strip-prefix": ["x."],
    "--out": PLACES,
}
OPTIONS = [
    *[(command, option, values) for option, values in SHARED.items() for command in (PROBE, AUDIT)],
    (PROBE, "--test", FILES),
    (PROBE, "--true-labels", FILES),
    (PROBE, "--probes", [*NAMES, ["masc", "masc"]]),
    (PROBE, "--variances", ["0", *SHARES]),
    (PROBE, "--memory", ["-1", "0", "nan", "", "abc", "8XB", "-8GiB"]),
    (AUDIT, "--holdout", FILES),
    (AUDIT, "--trusted", FILES),
    (AUDIT, "--test", FILES),
    (AUDIT, "--policy", NAMES),
    (AUDIT, "--views", NAMES),
    (AUDIT, "--seed", WHOLE),
    (TRAIN, "--pair", [*NAMES, "../.."]),
    (TRAIN, "--corruption", SHARES),
    (TRAIN, "--seeds", [*WHOLE, "9" * 30]),
    (TRAIN, "--noise", [*NAMES, "../x:y"]),
    *[(TRAIN, option, ["0", *WHOLE]) for option in NUMBERS],
    (TRAIN, "--target", ["-1", "nan", "1e400", "", "abc"]),
    (TRAIN, "--learning-rate", ["-1", "nan", "1e400", "", "abc"]),
    (TRAIN, "--dropout", ["0.5", "nan", "abc"]),  # which an MLP has not
    *[(TRAIN, option, NAMES) for option in WORDS],
    (TRAIN, "--data", ["nope", "empty", "rows.npz", "pipe"]),
    (TRAIN, "--root", PLACES),
    *[(["paper", command], "--root", ["rows.npz", "nope", "folder", "pipe"]) for command in WRITERS],
    *[(["paper", command], "--out", PLACES) for command in WRITERS],
    *[(["paper", command, "nope"], "--root", ["folder"]) for command in WRITERS],
    (["paper", "status"], "--root", ["rows.npz", "pipe"]),
    (REPRODUCE, "--root", PLACES),
    (REPRODUCE, "--out", PLACES),
    (REPRODUCE, "--jobs", ["0", *WHOLE]),
    (REPRODUCE, "--scale", NAMES),
    (REPRODUCE, "--pair", NAMES),
    (["demo"], "--corruption", SHARES),
    (["demo"], "--seeds", ["0", *WHOLE]),
    (["demo"], "--variance", ["0", *SHARES]),
    (["demo"], "--out", PLACES),
    (["data", "fetch", "mnist"], "--root", ["rows.npz", "/dev/null/x", "pipe"]),
    (["review", "folder"], "--decisions", FILES),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "users_net.py").write_text(CODE)
    generator = np.random.default_rng(0)
    for name, n in (("rows", 40), ("held", 20)):
        x = generator.normal(size=(n, 3)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=np.arange(n) % 2)
    for name in ("empty", "empty.csv", "empty.npz"):
        (folder / name).touch()
    for name in ("noise.csv", "noise.npz", "noise.npy"):
        (folder / name).write_bytes(generator.bytes(2000))
    for name in ("folder", "folder.csv"):
        (folder / name).mkdir()
    for name in ("pipe", "pipe.csv"):
        os.mkfifo(folder / name)
    return folder


@pytest.mark.parametrize(
    ("command", "option", "values"), OPTIONS, ids=[f"{' '.join(c[:2])} {option}" for c, option, _ in OPTIONS]
)
def test_wrong_value_is_one_line_and_exit_status_2(place, capsys, monkeypatch, command, option, values):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    for value in values:
        arguments = [*command, option, *(value if isinstance(value, list) else [value])]
        assert main(arguments) == 2, value
        printed = capsys.readouterr()
        lines = [line for line in printed.err.splitlines() if not line.endswith(" ...")]
        assert len(lines) == 1, (value, printed.err)
        assert lines[0].startswith("layerprobe: "), value
        assert "\x1b" not in printed.err + printed.out
        assert printed.out == "", value
    assert [path for path in sorted(place.rglob("*")) if "__pycache__" not in path.parts] == before
