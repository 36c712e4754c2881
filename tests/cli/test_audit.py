"""`layerprobe audit`: its arguments, its files and its output."""

import html
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from layerprobe import auditing
from layerprobe.auditing import Audit
from layerprobe.cli import main
from layerprobe.layers.views import VIEWS

N = 12
CODE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

def lengths(texts):
    return torch.tensor([[float(len(text)), 1.0, 2.0] for text in texts])

pair = (torch.arange(12.0).reshape(4, 3), [0, 1, 0, 1])

def data():
    return pair
"""


class FakeAudit:
    """The public attributes of an audit."""

    def __init__(self, rows):
        self.rows, self.n = rows, rows.n
        self.label_finding, self.network_finding = "A quarter is wrong.", "Layer fc1 knows better."
        self.advice, self.why = "review", "The noise is an estimate."
        self.recommendations = pd.DataFrame({"subject": ["labels"], "advice": ["review"], "why": [self.why]})
        self.evidence = pd.DataFrame(
            {
                "quantity": ["wrong labels", "flagged labels that are wrong"],
                "value": [0.25, 0.8],
                "low": [0.2, 0.7],
                "high": [np.nan, 0.9],
                "kind": ["estimated"] * 2,
                "basis": ["rows"] * 2,
            }
        )
        self.policy, self.classes = "noisy_holdout", np.array(["[red]a", "b"])
        self.finding = f"{self.label_finding} {self.network_finding}"
        self.layers = pd.DataFrame(
            {"layer": ["1", "input"], "probe": "ridge", "strength": [0.1, np.nan], "chosen": [True, False]}
        )
        self.controls = pd.DataFrame({"control": ["head"], "criterion": [np.float32(0.5)], "beaten": [True]})
        self.noise = SimpleNamespace(
            rate=0.25, low=0.2, high=float("nan"), matrix=np.eye(2), prior=torch.tensor([0.5, 0.5])
        )
        self.issues = pd.DataFrame(
            {
                "index": rows.index,
                "given_label": "[red]a",
                "suggested_label": "b",
                "label_score": np.linspace(0.9, 0.1, rows.n),
                "is_label_issue": np.arange(rows.n) >= rows.n // 2,
                "margin": 0.5,
            }
        )
        self.conflicts = pd.DataFrame({"index": rows.index[:2], "other_index": rows.index[2:4]})
        self.expected_precision = 0.87
        self.cost, self.settings = {"capture": 1.5}, {"layers": ("1", "input"), "seed": np.int64(0)}

    def examples(self, positions):
        return self.rows.examples(positions)

    def report(self, path):
        path.write_text("report")

    def save(self, path):
        path.write_bytes(b"audit")

    def label_studio_tasks(self, path):
        path.write_text("[]")


FILES = [
    "audit.safetensors",
    "conflicts.csv",
    "controls.csv",
    "issues.csv",
    "layers.csv",
    "noise.json",
    "report.html",
    "tasks.json",
]


@pytest.fixture
def calls(here, monkeypatch):
    """Arguments of each call of `layerprobe.audit`; user code and data in the current directory."""
    (here / "users_net.py").write_text(CODE)
    (here / "rows.csv").write_text("text,label\n" + "".join(f"[b]{'x' * i} é,{i % 2}\n" for i in range(N)))
    np.savez(here / "rows.npz", x=np.arange(36, dtype=np.float32).reshape(N, 3), y=np.arange(N) % 2)
    np.savez(here / "held.npz", x=-np.arange(1, 19, dtype=np.float32).reshape(6, 3), y=np.arange(6) % 2)
    made = []

    def audit(model, data, labels=None, **options):
        options.pop("progress")("reading")
        made.append((model, data, options))
        return FakeAudit(data)

    monkeypatch.setattr(auditing, "audit", audit)
    return made


MODEL = ["audit", "--model", "users_net:build"]
BY_VIEWS = ["--policy", "unseen_views", "--views", "flip", "left"]
ARRAYS = ["--data", "rows.npz", "--policy", "noisy_holdout", "--holdout", "held.npz"]
TEXTS = ["--data", "rows.csv", "--inputs", "users_net:lengths"]


def test_options_reach_the_audit(calls, here):
    more = ["--layers", "1", "...", "--pool", "mean", "--batch-size", "5", "--seed", "3", "--device", "cpu"]
    assert main([*MODEL, *ARRAYS, *more, "--views", "flip", "--class-names", "a", "b"]) == 0
    ((model, rows, options),) = calls
    assert isinstance(model, nn.Sequential)
    assert rows.n == N
    assert rows.labels.tolist() == [0, 1] * 6
    assert options.pop("holdout").n == 6
    assert options == {
        "policy": "noisy_holdout",
        "trusted": None,
        "test": None,
        "views": ("flip",),
        "layers": ["1", ...],
        "pool": "mean",
        "class_names": ("a", "b"),
        "batch_size": 5,
        "flags": "balanced",
        "seed": 3,
    }


def test_default_options_reach_the_audit(calls, here):
    state = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict()
    safetensors.torch.save_file(state, here / "w.safetensors")
    assert (
        main([*MODEL, "--weights", "w.safetensors", *TEXTS, "--policy", "trusted", "--trusted", "rows.csv"])
        == 0
    )
    ((model, rows, options),) = calls
    assert torch.equal(model[2].weight, state["2.weight"])
    assert next(rows.batches())[0][:, 0].tolist() == [len(f"[b]{'x' * i} é") for i in range(N)]
    assert options.pop("trusted").n == N
    assert options == {
        "policy": "trusted",
        "holdout": None,
        "test": None,
        "views": (),
        "layers": None,
        "pool": None,
        "class_names": None,
        "batch_size": 512,
        "flags": "balanced",
        "seed": 0,
    }


@pytest.mark.parametrize("name", ["pair", "data"])
def test_data_from_user_code(calls, name):
    assert main([*MODEL, "--data", f"users_net:{name}", *BY_VIEWS]) == 0
    assert calls[0][1].labels.tolist() == [0, 1, 0, 1]


def test_audit_writes_its_files(calls, here):
    (here / "out").mkdir()
    (here / "out" / "mine.txt").write_text("kept")
    assert main([*MODEL, *TEXTS, *BY_VIEWS, "--out", "out"]) == 0
    assert sorted(path.name for path in (here / "out").iterdir()) == sorted([*FILES, "mine.txt"])
    issues = pd.read_csv(here / "out" / "issues.csv")
    assert issues.columns.tolist()[:4] == ["index", "given_label", "suggested_label", "label_score"]
    assert issues["label_score"].tolist() == np.linspace(0.9, 0.1, N).tolist()
    assert pd.read_csv(here / "out" / "layers.csv")["layer"].tolist() == ["1", "input"]
    assert pd.read_csv(here / "out" / "controls.csv")["control"].tolist() == ["head"]
    noise = json.loads((here / "out" / "noise.json").read_text())
    assert noise == {
        "rate": 0.25,
        "low": 0.2,
        "high": None,
        "kind": "estimated",
        "classes": ["[red]a", "b"],
        "matrix": [[1.0, 0.0], [0.0, 1.0]],
        "prior": [0.5, 0.5],
    }


def test_audit_prints_finding_and_table(calls, here, capsys):
    assert main([*MODEL, *TEXTS, *BY_VIEWS]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(
        "A quarter is wrong.\nLayer fc1 knows better.\nAdvice: review. The noise is an estimate.\n"
    )
    assert "The most suspicious of 6 flagged labels" in printed.out
    table = [line for line in printed.out.splitlines() if "[red]a" in line]
    assert [line.split("│")[1].strip() for line in table] == ["11", "10", "9", "8", "7", "6"]
    assert "[b]xxxxxxxxxxx é" in table[0]
    assert "0.100" in table[0]
    assert "About 80% of the flagged labels are expected to be wrong." in printed.out
    assert "All results are in audit; start with audit/report.html." in printed.out
    assert printed.err == "reading ...\n"


def test_class_names_with_terminal_escapes_are_printed_escaped(calls, here, capsys, monkeypatch):
    real = auditing.audit

    def audit(*args, **options):
        result = real(*args, **options)
        result.issues["suggested_label"] = "\x1b]0;title\x07\x1b[31mred\u202e"
        result.label_finding = "Class \x1b[2J is noisy."
        return result

    monkeypatch.setattr(auditing, "audit", audit)
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*MODEL, *TEXTS, *BY_VIEWS]) == 0
    printed = capsys.readouterr().out
    assert not set("\x1b\x07\u202e") & set(printed)
    assert "\\x1b[31mred\\u202e" in printed
    assert "Class \\x1b[2J is noisy." in printed


def test_cells_are_not_formulas_of_a_spreadsheet(calls, here, monkeypatch):
    real = auditing.audit
    cells = ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", "\rx", "a=b", "", "1", "x", "y", "z"]

    def audit(*args, **options):
        result = real(*args, **options)
        result.issues["given_label"] = cells
        result.issues["margin"] = -0.5
        return result

    monkeypatch.setattr(auditing, "audit", audit)
    assert main([*MODEL, *TEXTS, *BY_VIEWS]) == 0
    issues = pd.read_csv(here / "audit" / "issues.csv", keep_default_na=False, dtype={"given_label": str})
    assert issues["given_label"].tolist() == [*(f"'{cell}" for cell in cells[:5]), "'\nx", *cells[6:]]
    assert set(issues["margin"]) == {-0.5}


def test_json_is_the_only_output(calls, here, capsys):
    assert main([*MODEL, *ARRAYS, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["finding"] == "A quarter is wrong. Layer fc1 knows better."
    assert document["advice"] == "review"
    assert document["evidence"][0]["kind"] == "estimated"
    assert document["rows"] == N
    assert document["chosen"] == [{"layer": "1", "probe": "ridge", "strength": 0.1, "chosen": True}]
    assert document["noise"]["high"] is None
    assert document["issues"]["flagged"] == 6
    assert document["issues"]["expected_precision"] == 0.87
    assert [row["index"] for row in document["issues"]["most_suspicious"]] == [11, 10, 9, 8, 7, 6]
    assert document["settings"] == {"layers": ["1", "input"], "seed": 0}
    assert (here / "audit" / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere", *BY_VIEWS], "nowhere does not exist"),
        (["--data", "rows.csv", *BY_VIEWS], "the data are texts"),
        (["--data", "users_net:nothing", *BY_VIEWS], "users_net has no 'nothing'"),
        ([*TEXTS, "--policy", "loo"], "'loo' cannot choose a layer"),
        ([*TEXTS, "--policy", "best"], "expected the name of a selection policy, got 'best'"),
        ([*TEXTS, "--policy", "noisy_holdout"], "--holdout"),
        ([*TEXTS, "--policy", "unseen_views"], "--views"),
        ([*ARRAYS, "--inputs", "users_net.lengths"], "expected pkg.mod:name"),
        ([*ARRAYS, "--weights", "w.safetensors"], "w.safetensors does not exist"),
        ([*ARRAYS, "--out", "rows.csv"], "rows.csv is a file"),
        ([*ARRAYS, "--out", "rows.csv/deeper"], "rows.csv is a file"),
        ([*ARRAYS, "--device", "abacus"], "--device abacus cannot be used"),
        ([*ARRAYS, "--device", "abacus"], "; leave it out or pass cpu"),
        ([*ARRAYS, "--label-column", "y"], "--label-column does not apply to the .npz file"),
        ([*ARRAYS, "--resize", "3", "3"], "resize does not apply to the .npz file"),
    ],
)
def test_invalid_argument_prints_one_line_and_writes_nothing(calls, here, capsys, options, message):
    before = sorted(here.iterdir())
    assert main([*MODEL, *options]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("layerprobe: ")
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""
    assert calls == []
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before


def test_help_warns_that_it_runs_code(capsys):
    assert main(["audit", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "This command runs your code" in printed
    for option in ("--model", "--weights", "--policy", "--holdout", "--views", "--inputs", "--dry-run"):
        assert option in printed
    assert f"Any of {', '.join(VIEWS)}." in printed


def test_dry_run_prints_the_plan_and_writes_nothing(calls, here, capsys):
    before = sorted(here.iterdir())
    assert main([*MODEL, *ARRAYS, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    table = [line.split("│")[1:3] for line in printed.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in table] == [["input", "3"], ["1", "4"]]
    assert "12 training rows of 2 classes; selection by 6 rows." in printed
    assert "ridge with " in printed
    assert "2 passes of the network" in printed
    assert "Nothing was computed." in printed
    assert calls == []
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before

    assert main([*MODEL, *ARRAYS, "--views", "flip", "--layers", "1", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["rows"] == N
    assert plan["held_out"] == 6
    assert plan["classes"] == [0, 1]
    assert plan["layers"] == {"1": 4}
    assert plan["passes"] == 4
    assert plan["tried"] == sum(max(1, len(strengths)) for strengths in plan["candidates"].values())
    assert plan["memory"] == 4 * (N + 6) * 4 * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--data", "rows.npz", "--policy", "trusted", "--trusted", "rows.npz"],
            "12 of the 12 rows of --trusted",
        ),
        ([*ARRAYS, "--layers", "fc*"], "no layer matches 'fc*'"),
        ([*ARRAYS, "--seed", "-1"], "seed must be a whole number of at least 0, got -1"),
        ([*ARRAYS, "--class-names", "a", "b", "c"], "--class-names has 3 names for 2 outputs"),
        ([*ARRAYS, "--views", "spin"], "expected views of "),
    ],
)
def test_dry_run_reports_invalid_arguments(calls, capsys, options, message):
    assert main([*MODEL, *options, "--dry-run"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


@pytest.mark.filterwarnings("ignore::layerprobe.errors.DegenerateWarning")  # three features are few
def test_audit_of_a_trained_network(here, capsys, monkeypatch):
    monkeypatch.setattr(Audit, "save", lambda self, path: path.write_bytes(b""))  # tests of its own
    (here / "users_net.py").write_text(CODE)
    rng = np.random.default_rng(0)
    for name, n in (("rows", 120), ("held", 60)):
        truth = rng.integers(2, size=n)
        x = (rng.normal(size=(n, 3)) + 3 * truth[:, None]).astype(np.float32)
        wrong = rng.random(n) < 0.2
        np.savez(here / f"{name}.npz", x=x, y=np.where(wrong, 1 - truth, truth))
    torch.manual_seed(0)
    assert main([*MODEL, *ARRAYS, "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["rows"] == 120
    assert {row["control"] for row in document["controls"]} >= {"head", "raw input", "decoder"}
    noise = document["noise"]
    assert noise["low"] < 0.35
    assert noise["high"] > 0.1
    assert (noise["rate"] is None) == (noise["kind"] == "unknown")
    assert printed.err.splitlines()[0] == "reading ..."
    assert sorted(path.name for path in (here / "audit").iterdir()) == sorted([*FILES, "review.html"])
    issues = pd.read_csv(here / "audit" / "issues.csv")
    assert issues["index"].tolist() == list(range(120))
    assert issues["is_label_issue"].sum() == document["issues"]["flagged"]
    page = (here / "audit" / "report.html").read_text()
    assert document["why"] in html.unescape(page)
