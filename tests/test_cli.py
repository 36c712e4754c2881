import json
import math
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from layerprobe import data, demo
from layerprobe.cli import main
from layerprobe.errors import DataError
from layerprobe.paper import RunSpec, execute, run_folder


def test_version_option(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"layerprobe {version('layerprobe')}\n"


def test_demo_help_explains_every_option(capsys):
    assert main(["demo", "--help"]) == 0
    printed = capsys.readouterr().out
    for option in ("--corruption", "--seeds", "--variance", "--out", "--json"):
        assert option in printed
    assert "(default: 0.6)" in printed
    assert "report.html" in printed


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("gone"), 2, "gone"),
        (PermissionError("no"), 2, "no"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(capsys, monkeypatch, error, code, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(demo, "run_demo", fail)
    assert main(["demo"]) == code
    assert capsys.readouterr().err == f"layerprobe: {said}\n"


def test_interruption_while_options_are_read_prints_no_traceback(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("layerprobe.cli.refuse_alone", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "layerprobe: interrupted\n"


def test_programming_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(demo, "run_demo", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_fetch_prints_the_folder_of_the_data_set(capsys, monkeypatch, tmp_path):
    asked = []

    def fetch(name, root, *, progress):
        asked.append((name, root, progress))
        return tmp_path / name

    monkeypatch.setattr(data, "fetch", fetch)
    assert main(["data", "fetch", "mnist", "--root", str(tmp_path)]) == 0
    assert asked == [("mnist", tmp_path, True)]
    assert capsys.readouterr().out == f"{tmp_path / 'mnist'}\n"


DIGITS = [
    "--pair",
    "mlp-digits",
    "--corruption",
    "0",
    "0.4",
    "--subset",
    "100",
    "--max-epochs",
    "1",
    "--seeds",
]


def digits(corruption, seed):
    return RunSpec.of("mlp-digits", corruption, seed, subset=100, max_epochs=1)


def test_dry_run_prints_states_and_disk_space_and_trains_nothing(capsys, tmp_path):
    execute(digits(0.4, 1), tmp_path)
    assert (
        main(["paper", "train", *DIGITS, "0", "1", "--root", str(tmp_path), "--dry-run", "--jobs", "2"]) == 0
    )
    printed = capsys.readouterr()
    assert printed.err.startswith("4 runs: 3 missing, 1 done. 2 at a time, at most 0.0")
    assert "GB are free" in printed.err
    assert printed.out.count("mlp-digits") == 4
    assert len(list(tmp_path.glob("*/*"))) == 1


def test_train_finishes_the_grid_and_reports_failed_runs(capsys, tmp_path):
    done, missing, broken, _ = (digits(p, seed) for p in (0, 0.4) for seed in (0, 1))
    execute(done, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run_folder(tmp_path, done).rglob("*")}
    run_folder(tmp_path, broken).mkdir(parents=True)
    (run_folder(tmp_path, broken) / "run.json").write_text("no record")
    options = [*DIGITS, "0", "1", "--root", str(tmp_path), "--jobs", "2", "--checkpoints", "--json"]
    assert main(["paper", "train", *options]) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["root"] == str(tmp_path)
    assert [run["state"] for run in document["runs"]] == ["done", "done", "unreadable", "done"]
    errors = [run.get("error") for run in document["runs"]]
    assert [error is None for error in errors] == [True, True, False, True]
    assert "files are damaged" in errors[2]
    assert document["runs"][2]["folder"] == str(run_folder("", broken))
    assert {path: path.stat().st_mtime_ns for path in run_folder(tmp_path, done).rglob("*")} == before
    assert list(run_folder(tmp_path, missing).glob("checkpoints/*"))
    lines = printed.err.splitlines()
    assert lines[0].startswith("4 runs: ")
    assert any(line.startswith("mlp-digits, p = 0, seed 1: done, epoch 1, ") for line in lines)
    assert lines[-1].startswith("layerprobe: mlp-digits, p = 0.4, seed 0: ")


def test_stacked_runs_equal_separate_runs(capsys, tmp_path):
    options = ["paper", "train", "--pair", "mlp-digits", "--corruption", "0", "0.4", "--subset", "200"]
    options += ["--max-epochs", "3", "--json"]
    accuracies = []
    for how in ("stacked", "separate"):
        assert main([*options, "--seeds", "0", "1", f"--{how}", "--root", str(tmp_path / how)]) == 0
        printed = capsys.readouterr()
        assert ("Those of a pair as one" in printed.err) == (how == "stacked")
        runs = json.loads(printed.out)["runs"]
        assert [run["state"] for run in runs] == ["done"] * 4
        accuracies.append([(run["folder"], run["train_accuracy"], run["test_accuracy"]) for run in runs])
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize(("options", "stacked"), [([], True), (["--stacked"], True), (["--separate"], False)])
def test_runs_on_a_gpu_are_stacked_by_default(capsys, tmp_path, monkeypatch, options, stacked):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    command = ["paper", "train", *DIGITS, "0", "--device", "cuda", "--root", str(tmp_path), "--dry-run"]
    assert main([*command, *options]) == 0
    assert ("Those of a pair as one" in capsys.readouterr().err) == stacked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train", *DIGITS, "0", "--jobs", "0", "--dry-run"], "jobs must be at least 1"),
        (["train", *DIGITS, "0", "--seeds", "-1", "--dry-run"], "seed"),
        (["train", *DIGITS, "0", "--dropout", "0.5", "--dry-run"], "mlp-digits cannot be built"),
        (["status", "--corruption", "0.2"], "add --pair"),
    ],
)
def test_invalid_argument_is_reported_before_any_work(capsys, tmp_path, options, message):
    assert main(["paper", *options, "--root", str(tmp_path / "runs")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_done_run_with_missing_files_is_a_failure(capsys, tmp_path):
    folder = execute(digits(0, 0), tmp_path).folder
    (folder / "model.safetensors").unlink()
    assert main(["paper", "train", *DIGITS, "0", "--root", str(tmp_path)]) == 1
    assert "model.safetensors is gone. Remove the folder" in capsys.readouterr().err


def test_finished_grid_is_not_changed(capsys, tmp_path):
    execute(digits(0.4, 0), tmp_path)
    execute(digits(0, 0), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["paper", "train", *DIGITS, "0", "--root", str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "2 runs: 2 done." in capsys.readouterr().out


def test_interrupted_command_exits_with_130_and_can_be_repeated(tmp_path):
    options = ["--pair", "mlp-digits", "--corruption", "1", "--seeds", "0", "--root", str(tmp_path)]
    command = [sys.executable, "-m", "layerprobe", "paper", "train", *options]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells' background jobs ignore it
    )
    try:
        end = time.monotonic() + 240
        while not list(tmp_path.glob("*/*/*")) and time.monotonic() < end:
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert f"kept in {tmp_path}; the same command continues from there.\n" in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--protocol", "published"], {"protocol": "published"}),
        (["--optimizer", "adam", "--learning-rate", "0.1"], {"optimizer": "adam", "learning_rate": 0.1}),
        (["--batch-size", "8", "--target", "0.5"], {"batch_size": 8, "target": 0.5}),
        (["--dropout", "0.2"], {"options": {"dropout": 0.2}}),
        (["--no-maxpool"], {"options": {"maxpool": False}}),
    ],
)
def test_grid_options_reach_the_runs(capsys, tmp_path, options, changed):
    cell = ["--pair", "cnn-mnist", "--corruption", "0.2", "--seeds", "1", "--root", str(tmp_path), "--json"]
    assert main(["paper", "status", *cell, *options]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["folder"] == str(run_folder("", RunSpec.of("cnn-mnist", 0.2, 1, **changed)))


def test_status_shows_the_state_of_runs(capsys, tmp_path):
    assert main(["paper", "status", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"No runs in {tmp_path}.\n"
    run = execute(digits(0.4, 0), tmp_path)
    assert main(["paper", "status", *DIGITS, "0", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "2 runs: 1 missing, 1 done." in printed
    assert f"{100 * run.history['test_accuracy'].iloc[-1]:.1f}" in printed


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_status_names_a_run_that_diverged(capsys, tmp_path, loss):
    run = execute(digits(0.4, 0), tmp_path)
    run.history.assign(loss=loss).to_csv(run.folder / "history.csv", index=False)
    assert main(["paper", "status", *DIGITS, "0", "--root", str(tmp_path)]) == 0
    assert "diverged" in capsys.readouterr().out
    assert main(["paper", "status", *DIGITS, "0", "--root", str(tmp_path), "--json"]) == 0
    losses = [run["loss"] for run in json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["runs"]]
    assert losses == [None, None]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["audti"], "layerprobe has no command 'audti'. Did you mean audit?"),
        (["paper", "trian"], "layerprobe paper has no command 'trian'. Did you mean train?"),
        (["probe", "--modle", "x"], "layerprobe probe has no option --modle. Did you mean --model?"),
        (["paper", "status", "--sedes=1"], "has no option --sedes. Did you mean --seeds?"),
        (["audit", "--data", "x"], "an audit of a network needs --model, --data and --policy"),
        (["review", "--n", "5"], "review"),
        (["review", "nowhere", "--decisions", "d.csv"], "nowhere does not exist: expected the folder"),
        (["review", "a", "b"], "layerprobe review does not take b."),
        (["data", "fetch"], "layerprobe data fetch needs NAME."),
        (["demo", "--seeds", "many"], "expected --seeds INT, got many"),
        (["reproduce", "--scale", "big"], "expected --scale {small,medium,full}, got big"),
        (["demo", "--seeds=many"], "expected --seeds INT, got many"),
        (["demo", "--seeds", "0", "--seeds", "many"], "expected --seeds INT, got many"),
        (["probe", "--model", "m", "--data", "d", "--resize", "3"], "expected --resize INT INT, got 3"),
        (["data", "fetch", "mnits"], "There is no image set 'mnits'. Did you mean mnist?"),
        (["reproduce", "tabel1"], "There is no table or figure 'tabel1'. Did you mean table1?"),
        (["paper", "tables", "tabel1"], "There is no table 'tabel1'. Did you mean table1?"),
        (["paper", "train"], "name at least one, as in --pair mlp-mnist"),
        (["paper", "train", "--pair", "mlp-digits", "--stacked", "--separate"], "leave out one"),
        (["paper", "status", "--pair", "mlp-nist"], "Did you mean mlp-mnist? Available: mlp-mnist"),
        (["paper", "tables", "--pair", "mlp-nist"], "There is no pair 'mlp-nist'. Did you mean mlp-mnist?"),
    ],
)
def test_invalid_call_prints_one_line_with_advice(capsys, arguments, said):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("layerprobe: ")
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [([], "demo"), (["--help"], "paper"), (["paper"], "train"), (["data", "--help"], "fetch")],
)
def test_help_of_a_group_has_one_line_per_command(capsys, monkeypatch, arguments, named):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if "•" in line]
    start = lines.index(commands[0])
    assert lines[start : start + len(commands)] == commands
    assert any(named in line for line in commands)
    assert all(line.endswith(".") and len(line) <= 80 for line in commands)


@pytest.mark.parametrize("command", ["demo", "audit", "review", "probe", "paper train", "reproduce"])
def test_help_of_a_command_fits_80_columns_and_names_types_plainly(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "None" not in text
    assert "(default: )" not in text
    assert "(default: True)" not in text


def test_help_imports_no_heavy_package():
    code = "import sys, layerprobe.cli as cli; cli.main(['review', '--help']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.endswith("False\n")


def test_completion_script_is_printed_unchanged(capsys):
    assert main(["--tyro-print-completion", "bash"]) == 0
    assert "complete" in capsys.readouterr().out
