import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest
import torch
from joblib.externals.loky import process_executor

from layerprobe.errors import DataError, InputError
from layerprobe.paper import BusyError, RunSpec, execute, load_model, read_run, run_folder
from layerprobe.report.progress import Board, Stage
from layerprobe.runs.grid import Outcome, cost, train_grid
from layerprobe.runs.leases import locked
from layerprobe.runs.states import status

COMMAND = [sys.executable, "-c", "from layerprobe.cli import main; raise SystemExit(main())", "paper"]


def spec_of(corruption=0.4, seed=0, **changes):
    return RunSpec.of("mlp-digits", corruption, seed, **({"subset": 200, "max_epochs": 2} | changes))


class InThisProcess(Executor):
    """Stands in for a pool of one process."""

    def __init__(self, **_):
        pass

    def submit(self, function, /, *args):
        future = Future()
        future.set_result(function(*args))
        return future

    def shutdown(self, **_):
        pass


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(process_executor, "ProcessPoolExecutor", InThisProcess)


def test_failed_and_killed_runs_do_not_disturb_the_others_and_are_finished_later(tmp_path):
    fine, failing, killed, busy, late = specs = [spec_of(seed=seed) for seed in range(5)]
    board = Board.create(tmp_path / "board", len(specs))
    calls = tmp_path / "calls"

    def stumble(spec, root, **options):
        with calls.open("a") as file:
            print(spec.seed, torch.get_num_threads(), file=file)
        if spec == failing:
            raise ZeroDivisionError("one\nover zero")
        if spec == busy:
            raise BusyError("others are at it")
        run = execute(spec, root, **options)
        if spec == killed:  # as a run that is cut between two epochs leaves its folder
            (run.folder / "done").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return run

    first = train_grid(specs, tmp_path, jobs=2, tell=board.write, execute=stumble)
    assert [outcome.spec for outcome in first] == specs
    assert [outcome.state for outcome in first] == ["trained", "failed", "failed", "busy", "trained"]
    assert first[1].error == "ZeroDivisionError: one over zero"
    assert "in stumble" in first[1].traceback
    assert "killed" in first[2].error
    assert first[3].error == "others are at it"
    stages = [stage for stage, _, _ in board.read()]
    assert stages == [Stage.DONE, Stage.FAILED, Stage.FAILED, Stage.ELSEWHERE, Stage.DONE]
    history = read_run(run_folder(tmp_path, fine)).history
    assert board.read()[0][1:] == (2, history["train_accuracy"].iloc[-1])
    tried = sorted(calls.read_text().splitlines())
    assert tried == ["0 1", "1 1", "2 1", "2 1", "2 1", "3 1", "4 1"]  # what was killed is tried again

    alone = execute(late, tmp_path / "alone")
    trained = load_model(run_folder(tmp_path, late)).state_dict()
    assert all(
        torch.equal(trained[name], value) for name, value in load_model(alone.folder).state_dict().items()
    )


def test_the_same_call_finishes_what_was_cut(tmp_path, in_this_process):
    done, cut, new = specs = [spec_of(seed=seed) for seed in range(3)]
    execute(done, tmp_path)

    def stop(epoch):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        execute(cut, tmp_path, on_epoch=stop)
    outcomes = train_grid(specs, tmp_path)
    assert outcomes == [Outcome(done, "kept"), Outcome(cut, "trained"), Outcome(new, "trained")]
    assert set(status(tmp_path, specs)["state"]) == {"done"}


def test_runs_of_one_network_are_handed_over_as_one_where_that_is_possible(tmp_path, in_this_process):
    specs = [spec_of(0.2), spec_of(0.6, 1), spec_of(0.6, subset=300)]
    board = Board.create(tmp_path / "board", len(specs))

    handed_over = []

    def together(group, root, *, on_epoch, **options):
        handed_over.extend(group)
        execute(group[0], root, **options, on_epoch=lambda epoch: on_epoch(0, epoch))
        raise DataError("the second is out of reach")

    outcomes = train_grid(specs, tmp_path, jobs=1, tell=board.write, stacked=True, execute_together=together)
    positions = [specs.index(spec) for spec in handed_over]
    assert sorted(positions) == [0, 1]
    # One that is done stays done, whatever happened to the others of its group.
    done, failed = (outcomes[position] for position in positions)
    assert done.state == outcomes[2].state == "trained"
    assert (failed.state, failed.error) == ("failed", "the second is out of reach")
    assert board.read()[positions[0]][:2] == (Stage.DONE, 2)


def test_each_run_of_one_model_has_its_own_end(tmp_path):
    specs = [spec_of(0.2), spec_of(0.6, 1), spec_of(0.6, 2)]
    folder = run_folder(tmp_path, specs[1])
    folder.mkdir(parents=True)
    board = Board.create(tmp_path / "board", len(specs))
    with locked(folder):
        outcomes = train_grid(specs, tmp_path, jobs=1, tell=board.write, stacked=True)
    assert [outcome.state for outcome in outcomes] == ["trained", "busy", "trained"]
    assert folder.name in outcomes[1].error
    assert "BusyError" in outcomes[1].traceback
    assert [stage for stage, _, _ in board.read()] == [Stage.DONE, Stage.ELSEWHERE, Stage.DONE]
    assert board.read()[2][1] == 2
    assert [o.state for o in train_grid(specs, tmp_path, stacked=True)] == ["kept", "trained", "kept"]


def test_runs_are_one_model_only_on_a_gpu_unless_asked_for(tmp_path, in_this_process):
    def together(*_, **__):
        raise AssertionError("not asked for")

    specs = [spec_of(0.2), spec_of(0.6, 1)]
    outcomes = train_grid(specs, tmp_path, execute_together=together)
    assert [outcome.state for outcome in outcomes] == ["trained", "trained"]


def test_two_sweeps_at_once_train_each_run_once(tmp_path, in_this_process):
    specs = [spec_of(seed=seed) for seed in range(4)]
    together, results = threading.Barrier(2), []

    def sweep():
        together.wait()
        results.append(train_grid(specs, tmp_path, jobs=1))

    threads = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert not any(outcome.state == "failed" for outcomes in results for outcome in outcomes)
    for spec in specs:
        assert len(read_run(run_folder(tmp_path, spec)).record["sessions"]) == 1
    # Whoever comes first to a run trains it; the other passes it by, or finds it done.
    assert all(
        {first.state, second.state} & {"trained", "kept"} for first, second in zip(*results, strict=True)
    )


def test_what_is_done_is_kept_without_starting_a_process(tmp_path):
    spec = spec_of()
    execute(spec, tmp_path)
    assert train_grid([spec, spec], tmp_path, execute=None) == [Outcome(spec, "kept")] * 2
    assert train_grid([], tmp_path) == []


def test_arguments_are_checked(tmp_path):
    with pytest.raises(InputError, match="jobs must be at least 1, got 0"):
        train_grid([], tmp_path, jobs=0)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'cuda' needs a GPU"):
            train_grid([], tmp_path, device="cuda")


def test_larger_runs_cost_more():
    small, noisy, large = spec_of(0), spec_of(0.8), spec_of(0, subset=None)
    assert cost(small) < cost(noisy) < cost(large) < cost(RunSpec.of("mlp-mnist", 0, 0))
    assert cost(RunSpec.of("cnn-mnist", 0, 0)) < cost(RunSpec.of("resnet18-cifar10", 0, 0))


def heed_ctrl_c():
    """Tests that run in the background of a shell inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start_grid(tmp_path):
    """Start long runs, in processes of their own; killed at the end, whatever happened."""
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


def wait_until(condition, seconds=180):  # of a machine that may be busy
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def states(root):
    return set(status(root)["state"])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_ctrl_c_leaves_everything_resumable_and_no_process_behind(start_grid, tmp_path):
    process = start_grid("0", "1")
    workers = children(process.pid)
    assert len(workers) >= 2
    assert states(tmp_path) == {"running"}
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert out == ""
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert states(tmp_path) == {"resumable"}


def test_a_process_whose_grid_was_killed_stops_after_its_epoch(start_grid, tmp_path):
    process = start_grid("0")
    process.kill()
    process.wait()
    wait_until(lambda: states(tmp_path) == {"resumable"})
