"""Files in the folder of a run can hold anything: the run is damaged, and all others are shown."""

import json
import os
import shutil
import time

import pytest

from layerprobe.cli import main
from layerprobe.errors import DataError, LayerprobeError
from layerprobe.paper import RunSpec, execute, load_model, read_run, run_folder, status
from layerprobe.paper.rows import tidy, write_rows
from layerprobe.report.reproduction import Results

GOOD, BAD = (RunSpec.of("mlp-digits", 0.4, seed, subset=40, max_epochs=1) for seed in (0, 1))
ROW = {"experiment": "controls", "setting": "best_epoch", "metric": "accuracy", "value": 0.5}
VALUES = [None, "text", [], {}, -1, 1e400, float("nan"), 2**70, True, "\x1b[31m", "\ud800"]
FIELDS = [
    "spec",
    "spec pair",
    "spec corruption",
    "spec recipe",
    "spec recipe learning_rate",
    "spec recipe max_epochs",
    "spec init_seed",
    "spec seed",
    "spec subset",
    "spec noise",
    "spec options",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    for spec in (GOOD, BAD):
        write_rows(execute(spec, root).folder, "controls", tidy([ROW]))
    return root


@pytest.fixture
def root(base, tmp_path):
    return shutil.copytree(base, tmp_path / "runs")


def assert_others_are_shown(root, *, state="unreadable"):
    """The good run is done and has its rows; the bad one is in `state`, in every command."""
    for rows in (status(root), status(root, [GOOD, BAD])):
        states = dict(zip(rows["seed"], rows["state"], strict=True))
        assert states[0] == "done"
        assert state in set(rows["state"])
        assert (rows["reason"] != "").sum() == (state == "unreadable")
    results = Results.of_root(root)
    assert GOOD.key[:12] in set(results.rows["key"])
    assert GOOD.key[:12] in set(results.history["key"])


def replaced(record, path, value):
    if not path:
        return value
    return {**record, path[0]: replaced(record.get(path[0], {}), path[1:], value)}


@pytest.mark.parametrize("field", FIELDS)
def test_record_with_any_value_in_any_field(root, field):
    path = run_folder(root, BAD) / "run.json"
    record = json.loads(path.read_text())
    for value in VALUES:
        changed = replaced(record, field.split(), value)
        path.write_text(json.dumps(changed))
        if changed != record and not (field == "spec options" and not value):
            assert "unreadable" in set(status(root)["state"]), value
        assert "done" in set(status(root)["state"])
        assert len(Results.of_root(root).rows)


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b'{"spec":' * 50_000, b"\0" * 100, b"\xff\xfe", b"{}x", b"1" * 9999, b"[1]"],
)
def test_record_that_is_no_record(root, content):
    (run_folder(root, BAD) / "run.json").write_bytes(content)
    assert_others_are_shown(root)
    with pytest.raises(DataError, match="Remove the folder and train anew"):
        execute(BAD, root)


def pipe(path):
    os.mkfifo(path)


def link_to_itself(path):
    path.symlink_to(path)


def endless(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, os.mkdir, link_to_itself, endless])
@pytest.mark.parametrize("name", ["run.json", "history.csv", "model.safetensors", "done"])
def test_something_else_in_place_of_a_file(root, name, make):
    path = run_folder(root, BAD) / name
    path.unlink()
    make(path)
    assert_others_are_shown(root)
    with pytest.raises(LayerprobeError):
        execute(BAD, root)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text.replace("epoch", "epochs", 1),
        lambda text: text.replace("\n1,", "\n2,"),
        lambda text: text.replace("\n1,", "\n1e400,"),
        lambda text: text.splitlines()[0],
        lambda text: text + "2,0.5,7,0.5,0.5,1\n",
        lambda text: text + '"',
    ],
)
def test_damaged_history(root, change):
    path = run_folder(root, BAD) / "history.csv"
    path.write_text(change(path.read_text()))
    assert_others_are_shown(root)


@pytest.mark.parametrize(
    "change", [lambda text: "", lambda text: text.replace("0.5", "inf"), lambda text: "a\nb"]
)
def test_damaged_rows_are_named_and_the_others_written(root, tmp_path, capsys, change):
    path = run_folder(root, BAD) / "rows" / "controls.csv"
    path.write_text(change(path.read_text()))
    results = Results.of_root(root)
    assert set(results.rows["key"]) == {GOOD.key[:12]}
    (problem,) = results.problems
    assert str(path) in problem
    assert main(["paper", "tables", "table3", "--root", str(root), "--out", str(tmp_path / "tables")]) == 1
    assert str(path) in capsys.readouterr().err
    assert (tmp_path / "tables" / "table3.csv").exists()


@pytest.mark.parametrize("size", [0, 7, 5000, -1])
def test_cut_model_is_not_done(root, capsys, size):
    folder = run_folder(root, BAD)
    model = folder / "model.safetensors"
    model.write_bytes(model.read_bytes()[:size])
    assert_others_are_shown(root)
    assert not read_run(folder).done
    grid = ["--pair", "mlp-digits", "--corruption", "0.4", "--seeds", "0", "1", "--subset", "40"]
    assert main(["paper", "train", *grid, "--max-epochs", "1", "--root", str(root)]) == 1
    assert "model.safetensors is damaged" in capsys.readouterr().err


def test_changed_weights_are_not_loaded(root):
    folder = run_folder(root, BAD)
    model = folder / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-4] + b"\0\0\0\1")  # of the same size, with a whole header
    with pytest.raises(DataError, match="not the file that training wrote"):
        load_model(folder)


def test_cut_model_without_the_marker_is_trained_again(root):
    folder = run_folder(root, BAD)
    expected = (folder / "model.safetensors").read_bytes()
    (folder / "done").unlink()
    (folder / "model.safetensors").write_bytes(expected[:100])
    assert execute(BAD, root).done
    assert (folder / "model.safetensors").read_bytes() == expected


def test_record_in_the_folder_of_another_run(root):
    shutil.copytree(run_folder(root, GOOD), run_folder(root, GOOD).with_name("elsewhere"))
    rows = status(root)
    assert sorted(rows["state"]) == ["done", "done", "unreadable"]


def test_files_are_on_the_disk_before_the_marker(tmp_path, monkeypatch):
    synced, order = set(), []
    fsync, replace = os.fsync, type(tmp_path).replace

    def note(handle):
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def move(path, target):
        assert path.stat().st_ino in synced
        result = replace(path, target)
        order.append(target.name)
        if target.name == "done":
            for other in (target.parent, target.parent.parent):
                assert other.stat().st_ino in synced
        return result

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(type(tmp_path), "replace", move)
    execute(GOOD, tmp_path)
    assert order[-3:] == ["model.safetensors", "run.json", "done"]


@pytest.mark.parametrize("content", ["", "[1, 2]", "x" * 5000, None])
def test_empty_lease_expires_soon(root, content):
    folder = run_folder(root, BAD)
    (folder / "done").unlink()
    if content is None:
        os.mkfifo(folder / "lease")
    else:
        (folder / "lease").write_text(content)
    start = time.monotonic()
    assert execute(BAD, root).done
    assert time.monotonic() - start < 60
    assert not (folder / "lease").exists()


def test_lease_dated_in_the_future(root):
    folder = run_folder(root, BAD)
    (folder / "lease").write_text("[1]")
    os.utime(folder / "lease", (time.time() + 1e6,) * 2)
    assert_others_are_shown(root, state="done")
