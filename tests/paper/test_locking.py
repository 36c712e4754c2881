import json
import os
import signal
import threading
import time

import pytest

from layerprobe.errors import InputError
from layerprobe.runs import leases as locking
from layerprobe.runs.leases import Abandoned, BusyError, Sweep, is_locked, locked


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def elsewhere(folder, number=1, *, age=0.0, sweep=None):
    """Leave the claim of a process on another machine, whose last sign of life is so old."""
    path = folder / f"lock-{number}"
    path.write_text(json.dumps({"host": "far", "pid": 7, "machine": "m", "kernel": True, "sweep": sweep}))
    os.utime(path, (time.time() - age,) * 2)


@pytest.fixture
def no_kernel_locks(monkeypatch):
    """Some storage cannot lock, or locks on each machine for itself."""
    monkeypatch.setattr(locking, "_flock", lambda *_, **__: None)


def held_by_a_child(folder):
    """Return the id of a process that holds a folder."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with locked(folder):
                os.write(writer, b"x")
                signal.pause()
        finally:
            os._exit(0)
    os.read(reader, 1)
    return child


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_folder_is_held_once_and_free_again(tmp_path):
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        who = rf"process {os.getpid()} on .* is at work"
        with pytest.raises(BusyError, match=who), locked(tmp_path):
            pytest.fail("two hold the lock")
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert names(tmp_path) == ["lock-2"]
    assert names(tmp_path) == ["lock-2.free"]
    assert not is_locked(tmp_path / "absent")


def test_an_error_inside_frees_it(tmp_path):
    with pytest.raises(ValueError, match="inside"), locked(tmp_path):
        raise ValueError("inside")
    assert not is_locked(tmp_path)


def test_a_killed_holder_frees_it_at_once(tmp_path):
    child = held_by_a_child(tmp_path)
    assert is_locked(tmp_path)
    kill(child)
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


def test_of_many_at_once_one_gets_it(tmp_path):
    start, over = threading.Barrier(20), threading.Barrier(20)
    got = []

    def try_it():
        start.wait()
        try:
            with locked(tmp_path):
                got.append(True)
                over.wait()
        except BusyError:
            over.wait()

    threads = [threading.Thread(target=try_it) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True]


def test_asking_does_not_keep_others_from_it(tmp_path):
    over = threading.Event()

    def ask():
        while not over.is_set():
            is_locked(tmp_path)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(20):
            with locked(tmp_path):
                assert is_locked(tmp_path)
                (claim,) = [path for path in tmp_path.glob("lock-*") if path.stat().st_size]
                assert json.loads(claim.read_text())["kernel"] is True
    finally:
        over.set()
        asking.join()


def test_a_holder_on_another_machine_counts_by_its_signs_of_life(tmp_path):
    elsewhere(tmp_path, age=locking.EXPIRY - 60)
    assert is_locked(tmp_path)
    with pytest.raises(BusyError, match="process 7 on far"), locked(tmp_path):
        pytest.fail("two hold the lock")
    elsewhere(tmp_path, age=locking.EXPIRY + 60)
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert names(tmp_path) == ["lock-2"]


def test_where_the_system_cannot_lock_signs_of_life_decide(tmp_path, no_kernel_locks, monkeypatch):
    monkeypatch.setattr(locking, "EXPIRY", 0.5)
    monkeypatch.setattr(locking, "BEAT", 0.05)
    with locked(tmp_path):
        time.sleep(1)
        assert is_locked(tmp_path)
    child = held_by_a_child(tmp_path)
    kill(child)
    assert is_locked(tmp_path)
    time.sleep(0.6)
    assert not is_locked(tmp_path)


def test_a_holder_that_was_replaced_is_told_and_leaves_the_other_alone(tmp_path):
    with locked(tmp_path) as claim:
        claim.check()
        elsewhere(tmp_path, number=2)
        with pytest.raises(BusyError):
            claim.check()
    assert is_locked(tmp_path)


def test_who_decided_long_ago_to_replace_a_holder_sees_that_others_did(tmp_path, monkeypatch):
    """It saw claim 1 lost; meanwhile another replaced it, ended, and a third is there as number 3."""
    elsewhere(tmp_path, number=3)
    latest, seen = locking._latest, [(1, True)]
    monkeypatch.setattr(locking, "_latest", lambda folder: seen.pop() if seen else latest(folder))
    with pytest.raises(BusyError), locked(tmp_path):
        pytest.fail("two hold the lock")
    assert latest(tmp_path) == (3, False)


def test_a_lost_claim_of_the_same_sweep_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "WAIT", 0.01)
    folder = tmp_path / "run"
    folder.mkdir()
    with Sweep.begin(tmp_path) as sweep:
        elsewhere(folder, sweep=sweep.name)
        with pytest.raises(BusyError), locked(folder):
            pytest.fail("others do not wait")
        timer = threading.Timer(0.2, elsewhere, [folder], {"age": 1e6, "sweep": sweep.name})
        timer.start()
        with locked(folder, sweep):
            assert not timer.is_alive()
            assert (folder / "lock-2").exists()


def test_who_waits_goes_when_the_sweep_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "WAIT", 0.01)
    with Sweep.begin(tmp_path) as sweep:
        sweep.check()
    elsewhere(tmp_path, sweep=sweep.name)
    with pytest.raises(Abandoned), locked(tmp_path, sweep):
        pytest.fail("nobody waits for this")
    with pytest.raises(Abandoned):
        sweep.check()


def test_sweeps_leave_nothing_behind_and_clear_away_killed_ones(tmp_path):
    killed = tmp_path / ".sweeps" / "killed"
    killed.mkdir(parents=True)
    elsewhere(killed, age=1e6)
    with Sweep.begin(tmp_path) as one, Sweep.begin(tmp_path) as other:
        assert {path.name for path in (tmp_path / ".sweeps").iterdir()} == {one.name, other.name}
        one.check()
        other.check()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_runs_folder_is_refused(tmp_path):
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(InputError, match="expected a folder for the runs"), Sweep.begin(tmp_path / "runs"):
        pass
    assert (tmp_path / "runs").read_text() == "mine"
