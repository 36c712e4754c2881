import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from loky.backend import fork_exec

from layerprobe.errors import InputError
from layerprobe.paper import RunSpec, execute, load_model, read_run, run_folder
from layerprobe.runs.grid import Outcome, operations, train_grid
from layerprobe.runs.leases import acquire
from layerprobe.runs.states import status
from layerprobe.utils.files import is_alive
from runs.run_helpers import wait_until

COMMAND = [sys.executable, "-c", "from layerprobe.cli import main; raise SystemExit(main())", "paper"]


def spec_of(corruption=0.4, seed=0, *, pair="mlp-digits", **changes):
    return RunSpec.of(pair, corruption, seed, **({"subset": 200, "max_epochs": 2} | changes))


class Reports(list):
    """Collect the progress of runs."""

    def __call__(self, position, progress):
        self.append((position, progress))

    def ends(self):
        return {position: progress.state for position, progress in self if progress.ended}


def test_failed_and_killed_runs_do_not_disturb_others_and_are_resumed(tmp_path, register):
    calls = tmp_path / "calls"
    calls.mkdir()

    def fail():
        raise ZeroDivisionError("one\nover zero")

    def die():
        (calls / f"{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once():
        if not (calls / "died").exists():
            (calls / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    pairs = register("failing", at_build=fail), register("deadly", at_build=die)
    pairs += (register("mortal", at_batch=(10, die_once)),)  # 7 batches per epoch
    specs = [
        spec_of(),
        *(spec_of(pair=pair) for pair in pairs),
        spec_of(seed=3),
        spec_of(seed=4),
    ]
    fine, _, _, mortal, busy, late = specs
    run_folder(tmp_path, busy).mkdir(parents=True)
    reports = Reports()
    with acquire(run_folder(tmp_path, busy)):
        outcomes = train_grid(specs, tmp_path, jobs=2, report=reports)
    assert [outcome.spec for outcome in outcomes] == specs
    states = [outcome.state for outcome in outcomes]
    assert states == ["trained", "failed", "failed", "trained", "busy", "trained"]
    assert outcomes[1].error == "ZeroDivisionError: one over zero"
    assert "in fail" in outcomes[1].traceback
    assert "was killed 3 times" in outcomes[2].error
    assert len(list(calls.iterdir())) == 3 + 1  # a killed process is replaced by another
    assert "works on this run" in outcomes[4].error
    assert reports.ends() == {0: "done", 1: "failed", 2: "failed", 3: "done", 4: "busy", 5: "done"}
    history = read_run(run_folder(tmp_path, fine)).history
    (end,) = (progress for position, progress in reports if position == 0 and progress.ended)
    assert (end.step, end.share) == (2, history["train_accuracy"].iloc[-1])

    sessions = read_run(run_folder(tmp_path, mortal)).record["sessions"]
    assert [(session["epochs_before"], session["threads"]) for session in sessions] == [(0, 1), (1, 1)]
    alone = execute(late, tmp_path / "alone")
    trained = load_model(run_folder(tmp_path, late)).state_dict()
    assert all(
        torch.equal(trained[name], value) for name, value in load_model(alone.folder).state_dict().items()
    )


def test_grid_keeps_finished_runs_and_resumes_interrupted_ones(tmp_path):
    done, interrupted, new = specs = [spec_of(seed=seed) for seed in range(3)]
    execute(done, tmp_path)

    def stop(epoch):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        execute(interrupted, tmp_path, on_epoch=stop)
    outcomes = train_grid(specs, tmp_path, jobs=1)
    assert outcomes == [Outcome(done, "kept"), Outcome(interrupted, "trained"), Outcome(new, "trained")]
    assert set(status(tmp_path, specs)["state"]) == {"done"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train_grid([new, new], tmp_path) == [Outcome(new, "kept")] * 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert train_grid([], tmp_path) == []


def test_each_run_of_a_stacked_model_has_its_own_end(tmp_path, register):
    def fail():
        raise ZeroDivisionError("over zero")

    pair = register("failing", at_build=fail)
    specs = [spec_of(0.2), spec_of(0.6, 1), spec_of(0.6, 2), spec_of(0.2, pair=pair), spec_of(0.6, pair=pair)]
    folder = run_folder(tmp_path, specs[1])
    folder.mkdir(parents=True)
    reports = Reports()
    with acquire(folder):
        outcomes = train_grid(specs, tmp_path, jobs=1, report=reports, stacked=True)
    assert [outcome.state for outcome in outcomes] == ["trained", "busy", "trained", "failed", "failed"]
    assert folder.name in outcomes[1].error
    assert "BusyError" in outcomes[1].traceback
    assert outcomes[3].error == outcomes[4].error == "ZeroDivisionError: over zero"
    assert reports.ends() == {0: "done", 1: "busy", 2: "done", 3: "failed", 4: "failed"}
    again = train_grid(specs[:3], tmp_path, stacked=True)
    assert [outcome.state for outcome in again] == ["kept", "trained", "kept"]


def test_runs_are_separate_on_a_cpu_by_default_and_the_longest_is_first(tmp_path):
    specs = [spec_of(0.2), spec_of(0.6, 1), spec_of(0.6, 1, subset=400)]
    reports = Reports()
    train_grid(specs, tmp_path, jobs=1, report=reports)
    assert list(reports.ends()) == [2, 1, 0]  # stacked runs end together, in their order


def test_two_grids_at_once_train_each_run_once(tmp_path):
    specs = [spec_of(seed=seed) for seed in range(4)]
    barrier, results = threading.Barrier(2), []

    def train():
        barrier.wait()
        results.append(train_grid(specs, tmp_path, jobs=1))

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert not any(outcome.state == "failed" for outcomes in results for outcome in outcomes)
    for spec in specs:
        assert len(read_run(run_folder(tmp_path, spec)).record["sessions"]) == 1
    # The first to acquire a run trains it; the other grid finds it busy or done.
    assert all(
        {first.state, second.state} & {"trained", "kept"} for first, second in zip(*results, strict=True)
    )


def test_old_names_of_arguments_give_one_warning(tmp_path):
    reports = Reports()
    with pytest.warns(DeprecationWarning, match=r"train_grid: use report= instead of tell=") as caught:
        train_grid([spec_of()], tmp_path, jobs=1, tell=reports, cluster=None)
    assert len(caught) == 1
    assert reports.ends() == {0: "done"}


def test_invalid_arguments_are_refused(tmp_path):
    with pytest.raises(InputError, match="jobs must be at least 1, got 0"):
        train_grid([], tmp_path, jobs=0)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'cuda' needs a GPU"):
            train_grid([], tmp_path, device="cuda")


def test_larger_runs_need_more_operations():
    small, large = spec_of(0), spec_of(0, subset=None)
    assert operations(small) < operations(large) < operations(RunSpec.of("mlp-mnist", 0, 0))
    assert operations(RunSpec.of("cnn-mnist", 0, 0)) < operations(RunSpec.of("resnet18-cifar10", 0, 0))


def heed_ctrl_c():
    """Restore Ctrl-C, which processes in the background of a shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start_grid(tmp_path):
    """Start a command that trains long runs; it is killed at the end of the test."""
    started = []

    def start(*seeds):
        options = ["--pair", "mlp-digits", "--corruption", "1", "--target", "2", "--root", str(tmp_path)]
        command = [*COMMAND, "train", *options, "--seeds", *seeds, "--jobs", "2"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
        )
        started.append(process)
        wait_until(lambda: len(list(tmp_path.glob("*/*/history.csv"))) == len(seeds))
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def children(pid):
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def states(root):
    return set(status(root)["state"])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_ctrl_c_leaves_resumable_runs_and_no_process(start_grid, tmp_path):
    process = start_grid("0", "1")
    workers = children(process.pid)
    assert len(workers) >= 2
    assert states(tmp_path) == {"running"}
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in err
    assert "Traceback" not in err
    assert out == ""
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert states(tmp_path) == {"resumable"}


def test_ctrl_c_while_a_process_starts_is_quiet(tmp_path, monkeypatch, capfd):
    started = []

    def interrupted(*arguments, **options):
        started.append(fork(*arguments, **options))
        os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    fork = fork_exec.fork_exec
    monkeypatch.setattr(fork_exec, "fork_exec", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_grid([spec_of()], tmp_path, jobs=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(started) == 1
    wait_until(lambda: not is_alive(started[0]))
    assert capfd.readouterr() == ("", "")


def test_processes_of_a_killed_command_stop_after_their_epoch(start_grid, tmp_path):
    process = start_grid("0")
    process.kill()
    process.wait()
    wait_until(lambda: states(tmp_path) == {"resumable"})


def test_program_that_a_pair_ends_is_a_failed_run():
    outcome = Outcome.of(spec_of(), SystemExit("no data"))
    assert (outcome.state, outcome.error) == ("failed", "SystemExit: no data")
