import errno
import hashlib
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from layerprobe.data import ImageSet, load
from layerprobe.errors import DataError
from layerprobe.paper import (
    BusyError,
    RunSpec,
    build_network,
    execute,
    load_model,
    read_run,
    run_data,
    run_folder,
)
from layerprobe.runs import data as run_images
from layerprobe.runs import execution
from layerprobe.runs.leases import acquire
from layerprobe.training import accuracy
from runs.run_helpers import stop_at

SPEC = RunSpec.of("mlp-digits", 0.6, 0, subset=64, max_epochs=3)
FILES = ["done", "history.csv", "model.safetensors", "run.json"]
KEPT = ["checkpoints/epoch-0000.safetensors", "checkpoints/epoch-0001.safetensors"]
KEPT += ["checkpoints/epoch-0002.safetensors"]  # 3 is not chosen


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return execute(SPEC, tmp_path_factory.mktemp("undisturbed"), checkpoints=True)


def files_of(folder):
    """Return the paths of all files but the lease, which exists while the run is trained."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lease"]
    return sorted(str(path.relative_to(folder)) for path in files)


def assert_same_run(run, expected):
    """Bit for bit, seconds aside."""
    assert run.done
    pd.testing.assert_frame_equal(
        run.history.drop(columns="seconds"), expected.history.drop(columns="seconds"), check_exact=True
    )
    assert files_of(run.folder) == files_of(expected.folder)
    for file in ["model.safetensors", *KEPT]:
        assert (run.folder / file).read_bytes() == (expected.folder / file).read_bytes(), file


def test_finished_folder_records_the_whole_run(undisturbed):
    run = undisturbed
    assert run.folder == run_folder(run.folder.parents[1], SPEC)
    assert files_of(run.folder) == sorted([*FILES, *KEPT])
    assert run.spec == SPEC
    assert run.history["epoch"].tolist() == [1, 2, 3]
    assert run.seconds == run.history["seconds"].sum() > 0
    assert not run.running
    assert not run.memorised  # after three epochs
    assert run.record["key"] == SPEC.key
    images, labels = run_data(SPEC)
    assert run.record["data"] == {
        "name": "digits",
        "sha256": images.fingerprint,
        "labels_sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
        "train_images": 64,
        "test_images": 360,
    }
    (session,) = run.record["sessions"]
    assert session["epochs_before"] == 0
    assert session["versions"]["torch"] == torch.__version__
    assert session["started"] <= run.record["finished"]


def test_history_equals_accuracies_of_saved_weights(undisturbed):
    digits = load("digits")
    x = torch.tensor(digits.test_images).unsqueeze(1) / 16 * 2 - 1
    model = load_model(undisturbed.folder)
    assert not model.training
    last = undisturbed.history.iloc[-1]
    assert accuracy(model, x, torch.tensor(digits.test_labels)) == last["test_accuracy"]
    kept = load_model(undisturbed.folder, epoch=2)
    assert accuracy(kept, x, torch.tensor(digits.test_labels)) == undisturbed.history["test_accuracy"][1]


def test_epoch_0_is_the_initial_network(undisturbed):
    initial, kept = build_network(SPEC), load_model(undisturbed.folder, epoch=0)
    for p, q in zip(initial.parameters(), kept.parameters(), strict=True):
        assert torch.equal(p, q)


def test_missing_weights_raise_an_error_that_names_them(undisturbed):
    with pytest.raises(DataError, match=r"no weights of epoch 3 .*Train it with checkpoints"):
        load_model(undisturbed.folder, epoch=3)


def test_finished_run_is_not_changed(undisturbed, monkeypatch):
    monkeypatch.setattr(run_images, "load", None)  # not even its data are read
    folder = undisturbed.folder
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.*")}
    again = execute(SPEC, folder.parents[1], checkpoints=True)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.*")} == before
    pd.testing.assert_frame_equal(again.history, undisturbed.history, check_exact=True)


def test_run_reaches_its_target(tmp_path):
    run = execute(RunSpec.of("mlp-digits", 0.6, 0, subset=100), tmp_path)
    assert run.memorised
    assert run.history["train_accuracy"].iloc[-1] >= 0.999
    assert run.history["test_accuracy"].iloc[-1] < 0.7


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_run_stopped_after_any_epoch_resumes_with_the_same_bits(tmp_path, undisturbed, epoch):
    with pytest.raises(KeyboardInterrupt):
        execute(SPEC, tmp_path, checkpoints=True, on_epoch=stop_at(epoch))
    half = read_run(run_folder(tmp_path, SPEC))
    assert not half.done
    assert half.history["epoch"].tolist() == list(range(1, epoch + 1))
    with pytest.raises(DataError, match=r"no weights of its last epoch.*Finish it"):
        load_model(half.folder)
    calls = []
    run = execute(SPEC, tmp_path, checkpoints=True, on_epoch=calls.append)
    assert [call.epoch for call in calls] == list(range(epoch + 1, 4))
    assert_same_run(run, undisturbed)
    assert [session["epochs_before"] for session in run.record["sessions"]] == [0, epoch]


class Faults:
    """Lets the n-th change to a disk fail: half of the bytes written, or a file not moved or not removed."""

    def __init__(self, monkeypatch, fail_at, fail):
        self.count, self.fail_at, self.fail = 0, fail_at, fail
        open_, replace_, unlink, mkdir = Path.open, Path.replace, Path.unlink, Path.mkdir

        def open_file(path, mode="r", *args, **kwargs):
            file = open_(path, mode, *args, **kwargs)
            if mode == "xb" and self.is_due():
                write = file.write

                def write_half(blob):
                    write(blob[: len(blob) // 2])
                    file.flush()
                    self.fail()

                file.write = write_half
            return file

        def guarded(change):
            def guard(path, *args, **kwargs):
                if path.name != "lease" and self.is_due():  # its loss is tested with the leases
                    self.fail()
                return change(path, *args, **kwargs)

            return guard

        monkeypatch.setattr(Path, "open", open_file)
        monkeypatch.setattr(Path, "replace", guarded(replace_))
        monkeypatch.setattr(Path, "unlink", guarded(unlink))
        monkeypatch.setattr(Path, "mkdir", guarded(mkdir))

    def is_due(self):
        self.count += 1
        return self.count == self.fail_at


NO_SPACE = errno.ENOSPC


def disk_full():
    raise OSError(NO_SPACE, "No space left on device")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def run_with_fault(root, fail_at, fail, on_epoch=None):
    """Return how many changes to the disk the run made, 0 if one failed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        faults = Faults(monkeypatch, fail_at, fail)
        try:
            execute(SPEC, root, checkpoints=True, on_epoch=on_epoch)
        except OSError as error:
            if error.errno != NO_SPACE:
                raise
            return 0
        return faults.count


def run_killed(root, fail_at):
    """Run it in a process that is killed; return the number of epochs that it reported."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run_with_fault(root, fail_at, killed, on_epoch=lambda _: os.write(writer, b"."))
        finally:
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    with os.fdopen(reader, "rb") as reported:
        return len(reported.read())


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    root = tmp_path_factory.mktemp("counted") / "root"  # which is made, as in the tests
    return run_with_fault(root, 0, disk_full)


def test_fault_injection_covers_every_write(changes):
    # Written, moved and tidied up: run.json twice, checkpoint and history of three epochs, the last history,
    # the weights of four epochs, the marker. Besides, the checkpoint is removed.
    assert changes > 3 * (2 + 3 * 2 + 1 + 4 + 1) + 1


def test_run_resumes_after_a_disk_error_at_any_change(tmp_path, undisturbed, changes):
    for fail_at in range(1, changes + 1):
        root = tmp_path / str(fail_at)
        assert run_with_fault(root, fail_at, disk_full) == 0
        assert_same_run(execute(SPEC, root, checkpoints=True), undisturbed)
        shutil.rmtree(root)


def test_process_killed_at_any_change_loses_no_reported_epoch(tmp_path, undisturbed, changes):
    for fail_at in range(1, changes + 1):
        root = tmp_path / str(fail_at)
        reported = run_killed(root, fail_at)
        trained_again = []
        assert_same_run(execute(SPEC, root, checkpoints=True, on_epoch=trained_again.append), undisturbed)
        assert reported + len(trained_again) <= 3
        shutil.rmtree(root)


def test_convolutional_network_with_dropout_resumes_with_the_same_bits(tmp_path, monkeypatch):
    """Its weights lie channels-last in memory and contiguous in files."""
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(0, 256, (60, 28, 28), dtype=np.uint8), np.arange(60) % 10
    images = ImageSet("noise", pixels, labels, pixels[:20], labels[:20], tuple("0123456789"))
    monkeypatch.setattr(run_images, "load", lambda name, root: images)
    spec = RunSpec.of("cnn-mnist", 0.6, 0, subset=60, batch_size=16, max_epochs=2, options={"dropout": 0.5})
    undisturbed = execute(spec, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path, on_epoch=stop_at(1))
    resumed = execute(spec, tmp_path)
    for run in (undisturbed, resumed):
        assert run.history["epoch"].tolist() == [1, 2]
    weights = [(run.folder / "model.safetensors").read_bytes() for run in (undisturbed, resumed)]
    assert weights[0] == weights[1]


def test_busy_folder_is_refused(tmp_path):
    folder = run_folder(tmp_path, SPEC)
    folder.mkdir(parents=True)
    with acquire(folder), pytest.raises(BusyError, match=folder.name):
        execute(SPEC, tmp_path)
    assert files_of(folder) == []


def test_run_is_running_while_it_trains(tmp_path):
    seen = []
    execute(SPEC, tmp_path, on_epoch=lambda _: seen.append(read_run(run_folder(tmp_path, SPEC)).running))
    assert seen == [True] * 3


def test_folder_of_another_spec_is_refused(tmp_path, undisturbed):
    other = replace(SPEC, corruption=0.4)
    shutil.copytree(undisturbed.folder, run_folder(tmp_path, other))
    with pytest.raises(DataError, match=r"begun with the spec .*0\.6.* cannot go on with .*0\.4"):
        execute(other, tmp_path)


def test_other_images_are_refused(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        execute(SPEC, tmp_path, on_epoch=stop_at(1))
    digits = load("digits")
    other = replace(digits, train_images=digits.train_images[::-1], train_labels=digits.train_labels[::-1])
    monkeypatch.setattr(run_images, "load", lambda name, root: other)
    with pytest.raises(DataError, match=r"begun with the data .*digits.* cannot go on"):
        execute(SPEC, tmp_path)


def test_other_labels_are_refused(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        execute(SPEC, tmp_path, on_epoch=stop_at(1))
    images, labels = run_data(SPEC)
    monkeypatch.setattr(execution, "run_data", lambda spec, root: (images, labels[::-1].copy()))
    with pytest.raises(DataError, match=r"begun with the data .* cannot go on"):
        execute(SPEC, tmp_path)


def test_options_are_equal_after_json(tmp_path):
    spec = RunSpec.of("mlp-digits", 0.4, 0, subset=20, max_epochs=1, options={"num_classes": 10})
    assert execute(spec, tmp_path).spec == spec
    assert execute(spec, tmp_path).done


def test_damaged_checkpoint_names_the_remedy(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        execute(SPEC, tmp_path, on_epoch=stop_at(1))
    checkpoint = run_folder(tmp_path, SPEC) / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    with pytest.raises(DataError, match="Remove this file to begin the run anew"):
        execute(SPEC, tmp_path)
    checkpoint.unlink()
    assert execute(SPEC, tmp_path).done


def test_unreadable_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no run here, expected run\.json"):
        read_run(tmp_path)
    execute(SPEC, tmp_path)
    folder = run_folder(tmp_path, SPEC)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    spec = record["spec"]
    for damaged in (
        b'{"spec":',
        b"{}",
        b"[1]",
        b"\xff\xfe",
        json.dumps({**record, "spec": {**spec, "newfield": 1}}).encode(),
        json.dumps({**record, "spec": {**spec, "init_seed": 5}}).encode(),
    ):
        (folder / "run.json").write_bytes(damaged)
        with pytest.raises(DataError, match=f"{folder.name}.* damaged .*Remove the folder"):
            read_run(folder)
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "history.csv").write_text("")
    with pytest.raises(DataError, match="damaged"):
        read_run(folder)


def test_checkpoints_are_optional(tmp_path):
    run = execute(SPEC, tmp_path)
    assert files_of(run.folder) == FILES


def test_record_is_json_without_paths(undisturbed):
    text = (undisturbed.folder / "run.json").read_text()
    assert RunSpec.from_dict(json.loads(text)["spec"]) == SPEC
    assert str(undisturbed.folder) not in text
