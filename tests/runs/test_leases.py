import contextlib
import multiprocessing
import os
import signal
import threading
import time

import pytest

from layerprobe.errors import InputError
from layerprobe.runs import leases
from layerprobe.runs.leases import AbandonedError, BusyError, Session, acquire, is_leased


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_foreign_lease(folder, token="foreign", *, age=0.0):
    """Write the lease of a process on another machine, last refreshed `age` seconds ago."""
    path = folder / "lease"
    duration = leases.DURATION
    path.write_text(f"filelock/2\npid=7\nhost=far\nmode=lease\ntoken={token}\nduration={duration!r}\n")
    os.utime(path, (time.time() - age,) * 2)


@pytest.fixture
def short(monkeypatch):
    """Leases of this process expire soon."""
    monkeypatch.setattr(leases, "DURATION", 0.6)
    monkeypatch.setattr(leases, "HEARTBEAT", 0.1)
    monkeypatch.setattr(leases, "POLL", 0.05)


def hold(folder, ready):
    with acquire(folder):
        ready.set()
        signal.pause()


@pytest.fixture
def start_holder():
    """Start a process that holds a folder."""
    context = multiprocessing.get_context("fork")
    started = []

    def start(folder):
        ready = context.Event()
        process = context.Process(target=hold, args=(folder, ready), daemon=True)
        process.start()
        started.append(process)
        assert ready.wait(60)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_folder_has_one_holder_at_a_time(tmp_path):
    assert not is_leased(tmp_path)
    with acquire(tmp_path) as lease:
        lease.check()
        assert is_leased(tmp_path)
        who = rf"process {os.getpid()} on .* works on this run"
        with pytest.raises(BusyError, match=who), acquire(tmp_path):
            pytest.fail("two hold the lease")
        assert names(tmp_path) == ["lease"]
    assert names(tmp_path) == []
    with acquire(tmp_path):
        assert is_leased(tmp_path)
    assert not is_leased(tmp_path / "absent")


def test_error_in_the_block_releases_the_lease(tmp_path):
    with pytest.raises(ValueError, match="inside"), acquire(tmp_path):
        raise ValueError("inside")
    assert not is_leased(tmp_path)


@pytest.fixture(params=[True, False], ids=["", "names cannot be exchanged"])
def storage(request, monkeypatch):
    """Storage that can exchange two names, and storage that cannot, as NFS."""
    if not request.param:
        monkeypatch.setattr("filelock._soft.exchange_names", lambda *_: False)


@pytest.mark.usefixtures("storage")
def test_lease_of_a_killed_process_is_taken_over_at_once(tmp_path, start_holder):
    holder = start_holder(tmp_path)
    assert is_leased(tmp_path)
    with pytest.raises(BusyError, match=f"process {holder.pid} "), acquire(tmp_path):
        pytest.fail("two hold the lease")
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert not is_leased(tmp_path)
    with acquire(tmp_path) as lease:
        lease.check()


def test_one_of_many_threads_acquires(tmp_path):
    start, over = threading.Barrier(20), threading.Barrier(20)
    acquired = []

    def contend():
        start.wait()
        try:
            with acquire(tmp_path):
                acquired.append(True)
                over.wait()
        except BusyError:
            over.wait()

    threads = [threading.Thread(target=contend) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert acquired == [True]


def test_is_leased_does_not_disturb_holders(tmp_path):
    over = threading.Event()

    def ask():
        while not over.is_set():
            is_leased(tmp_path)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(20):
            with acquire(tmp_path) as lease:
                assert is_leased(tmp_path)
                lease.check()
    finally:
        over.set()
        asking.join()


def test_holder_on_another_machine_counts_while_it_refreshes(tmp_path):
    write_foreign_lease(tmp_path, age=leases.DURATION - 60)
    assert is_leased(tmp_path)
    with pytest.raises(BusyError, match="process 7 on far"), acquire(tmp_path):
        pytest.fail("two hold the lease")
    write_foreign_lease(tmp_path, age=leases.DURATION + 60)
    assert not is_leased(tmp_path)


@pytest.mark.usefixtures("storage")
def test_expired_lease_of_another_machine_is_taken_over(tmp_path, short):
    write_foreign_lease(tmp_path, age=3600)
    start = time.monotonic()
    with acquire(tmp_path) as lease:
        assert time.monotonic() - start >= leases.DURATION  # seen unrefreshed for so long by this process
        lease.check()


def test_live_lease_that_cannot_be_read_is_not_taken_over(tmp_path, monkeypatch):
    (tmp_path / "lease").write_text("another format")
    os.utime(tmp_path / "lease", (time.time() - 5,) * 2)  # refreshed 5 seconds ago
    monkeypatch.setattr(leases, "FOREVER", 0.3)
    monkeypatch.setattr(leases, "POLL", 0.05)
    with pytest.raises(BusyError), acquire(tmp_path):
        pytest.fail("the lease was taken over")
    assert (tmp_path / "lease").read_text() == "another format"


def test_held_lease_is_refreshed(tmp_path, short):
    with acquire(tmp_path) as lease:
        first = (tmp_path / "lease").stat().st_mtime
        time.sleep(2 * leases.DURATION)
        assert (tmp_path / "lease").stat().st_mtime > first
        lease.check()


def test_superseded_holder_refuses_to_write_and_leaves_the_new_lease(tmp_path):
    with acquire(tmp_path) as lease:
        lease.check()
        (tmp_path / "lease").unlink()
        write_foreign_lease(tmp_path)
        with pytest.raises(BusyError, match="another one has taken over"):
            lease.check()
    assert is_leased(tmp_path)


def test_suspended_holder_is_superseded_and_refuses_to_write(tmp_path, short, start_holder):
    holder = start_holder(tmp_path)
    with pytest.raises(BusyError), acquire(tmp_path):
        pytest.fail("two hold the lease")
    os.kill(holder.pid, signal.SIGSTOP)
    with Session.begin(tmp_path) as session:
        token = next(
            line.removeprefix("token=")
            for line in (tmp_path / "lease").read_text().splitlines()
            if line.startswith("token=")
        )
        (session.folder / token).touch()  # the holder is a worker of this session
        with acquire(tmp_path, session) as lease:
            os.kill(holder.pid, signal.SIGCONT)
            time.sleep(3 * leases.HEARTBEAT)
            lease.check()
            with pytest.raises(BusyError):
                leases.Lease(tmp_path, token).check()


def test_lost_lease_of_the_same_session_is_waited_for(tmp_path, short):
    folder = tmp_path / "run"
    folder.mkdir()
    with Session.begin(tmp_path) as session:
        (session.folder / "lost").touch()
        write_foreign_lease(folder, "lost")
        with pytest.raises(BusyError), acquire(folder):
            pytest.fail("a process of another session does not wait")
        with acquire(folder, session) as lease:
            assert lease.token != "lost"
            lease.check()


def test_waiting_ends_with_the_session(tmp_path, short):
    with Session.begin(tmp_path) as session:
        session.check()
        (session.folder / "lost").touch()
        write_foreign_lease(tmp_path, "lost")
    with pytest.raises(AbandonedError), acquire(tmp_path, session):
        pytest.fail("the command has ended")
    with pytest.raises(AbandonedError):
        session.check()


def test_sessions_remove_their_folder_and_those_of_killed_commands(tmp_path):
    killed = tmp_path / ".sessions" / "killed"
    killed.mkdir(parents=True)
    write_foreign_lease(killed, age=1e6)
    with Session.begin(tmp_path) as one, Session.begin(tmp_path) as other:
        assert {path.name for path in (tmp_path / ".sessions").iterdir()} == {
            one.folder.name,
            other.folder.name,
        }
        one.check()
        other.check()
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_the_folder_of_runs_is_refused(tmp_path):
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(InputError, match="expected a folder for the runs"), Session.begin(tmp_path / "runs"):
        pass
    assert (tmp_path / "runs").read_text() == "mine"


def test_session_begins_while_other_commands_remove_the_empty_folder_of_sessions(tmp_path):
    ended = threading.Event()

    def remove():
        while not ended.wait(1e-4):
            with contextlib.suppress(OSError):
                (tmp_path / leases.SESSIONS).rmdir()

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for _ in range(200):
            with Session.begin(tmp_path):
                pass
    finally:
        ended.set()
        thread.join()
