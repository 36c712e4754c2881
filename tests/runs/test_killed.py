"""Real processes that are terminated or killed, and what the same command finds afterwards."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerprobe.cli import main
from layerprobe.paper import RunSpec, execute, run_folder, status
from layerprobe.runs.leases import acquire
from layerprobe.utils.files import replace_file
from runs.run_helpers import wait_until

SPEC = RunSpec.of("mlp-digits", 0.4, 0, subset=40, max_epochs=1)
GRID = ["--pair", "mlp-digits", "--corruption", "0.4", "--seeds", "0", "--subset", "40", "--max-epochs", "1"]
COMMAND = [sys.executable, "-m", "layerprobe"]
LINUX = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


@pytest.fixture
def start():
    """Start a command; it is killed at the end of the test."""
    started = []

    def run(*arguments):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def left_in(session):
    """Return the processes of a session that exist and are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            found.append(stat.parent.name)
    return found


def files_of(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@LINUX
def test_terminated_demo_ends_its_workers_and_leaves_nothing(start, tmp_path):
    demo = start("demo", "--out", tmp_path / "demo", "--seeds", "2")
    wait_until(lambda: list(tmp_path.glob(".demo.*/*/*.json")))
    demo.terminate()
    out, err = demo.communicate(timeout=30)
    assert demo.returncode == 143
    assert err.splitlines()[-1] == "layerprobe: terminated"
    assert "Traceback" not in err
    assert out == ""
    assert files_of(tmp_path) == []
    wait_until(lambda: not left_in(demo.pid), 30)


@LINUX
def test_terminated_training_can_be_repeated(start, tmp_path):
    train = start("paper", "train", *GRID, "--max-epochs", "500", "--target", "2", "--root", tmp_path)
    wait_until(lambda: list(tmp_path.glob("*/*/history.csv")))
    train.terminate()
    _, err = train.communicate(timeout=30)
    assert train.returncode == 143
    assert err.splitlines()[-1] == "layerprobe: terminated"
    assert f"kept in {tmp_path}; the same command continues" in err
    wait_until(lambda: not left_in(train.pid), 30)
    assert set(status(tmp_path)["state"]) == {"resumable"}


def test_killed_training_leaves_nothing_after_the_next_one(start, tmp_path):
    train = start("paper", "train", *GRID, "--root", tmp_path)
    wait_until(lambda: list(tmp_path.glob(".sessions/*/lease")))
    os.killpg(train.pid, signal.SIGKILL)
    train.wait()
    folder = run_folder(tmp_path, SPEC)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".model.safetensors.0123456789abcdef.part").write_text("half")
    assert main(["paper", "train", *GRID, "--root", str(tmp_path)]) == 0
    place = folder.relative_to(tmp_path)
    expected = [place.parent, place, *(place / name for name in ("done", "history.csv", "run.json"))]
    assert files_of(tmp_path) == sorted(map(str, [*expected, place / "model.safetensors"]))


@pytest.mark.parametrize("state", ["begun", "done"])
def test_lease_of_a_process_killed_before_it_wrote_it(tmp_path, capsys, state):
    folder = run_folder(tmp_path, SPEC)
    if state == "done":
        execute(SPEC, tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lease").touch()
    os.utime(folder / "lease", (time.time() - 5,) * 2)
    assert main(["paper", "train", *GRID, "--root", str(tmp_path)]) == 0
    assert "1 run: 1 done" in capsys.readouterr().out
    assert not (folder / "lease").exists()


def test_run_of_another_process_is_named_and_the_exit_code_is_1(tmp_path, capsys):
    run_folder(tmp_path, SPEC).mkdir(parents=True)
    with acquire(run_folder(tmp_path, SPEC)):
        assert main(["paper", "train", *GRID, "--root", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "layerprobe: not done: 1 run: 1 missing; the same command continues" in err
    assert "works on this run" in err


def write_and_die(path):
    real = Path.replace
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    try:
        replace_file(path, b"half")
    finally:
        Path.replace = real


def test_next_write_removes_the_unfinished_file_of_a_killed_process(tmp_path):
    path = tmp_path / "rows.csv"
    child = os.fork()
    if child == 0:
        write_and_die(path)
        os._exit(0)
    os.waitpid(child, 0)
    (part,) = tmp_path.iterdir()
    assert part.name.startswith(".rows.csv.")
    other = tmp_path / part.name.replace(f"-{child}-", f"-{os.getpid()}-")  # of a living process
    other.write_text("in work")
    replace_file(path, b"whole")
    assert files_of(tmp_path) == sorted([other.name, "rows.csv"])
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("arguments", [["--help"], ["paper", "train", "--help"], ["paper", "status"]])
def test_reader_of_the_output_may_end_first(tmp_path, arguments):
    command = " ".join([*COMMAND, *arguments])
    ended = subprocess.run(
        f"{command} | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.stderr == ""
    assert ended.returncode in (0, 141)
