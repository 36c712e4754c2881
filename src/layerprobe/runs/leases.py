"""Leases: one process per folder, among all machines that share the folder's storage.

A lease is the file ``lease`` of a folder, a `filelock.SoftFileLease`. Only one of many processes can create
it. It names its holder and a random token. The holder refreshes it every `HEARTBEAT` seconds and removes it
at the end. If the holder was killed, a process on the same machine detects that and takes over at once. A
process on another machine takes over after it has seen no refresh for `DURATION` seconds of its own time.

A holder that was suspended, or cut off from the storage, for longer than that is superseded: another process
works in the folder while the first one still runs. `Lease.check`, called before each write, stops a
superseded holder before its next write. A write that passed this check before the takeover can still be
completed after it. Files are replaced as a whole, so it cannot damage a file. It can replace a checkpoint or
a history by that of the epoch before, which the next write of the new holder replaces again.

The storage must create files exclusively and show them to every machine at once, as a local disk, NFS 4,
Lustre or CephFS do. An object store behind a file interface does not.
"""

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self
from uuid import uuid4

from filelock import SoftFileLease, Timeout

from layerprobe.errors import DataError, InputError, LayerprobeError
from layerprobe.utils.files import Location, is_alive

FILE = "lease"
SESSIONS = ".sessions"
DURATION = 120.0  # seconds; longer than several heartbeats and the cache of a network file system
HEARTBEAT = 15.0  # seconds
GRACE = 2.0  # seconds in which a process writes the lease that it has made
POLL = 1.0  # seconds between two attempts to take over a lease
FOREVER = 1e8  # seconds; filelock refuses to wait without a limit for a lease that the same thread holds


class BusyError(LayerprobeError, BlockingIOError):
    """Another process works in this folder."""


class AbandonedError(BaseException):
    """The command that this work was for has ended."""


@dataclass(frozen=True)
class Lease:
    """The right to write into a folder."""

    folder: Path
    token: str  # names this lease in its file

    def check(self) -> None:
        """Raise BusyError if another process has taken over the lease."""
        owner = _lease_file(self.folder).owner
        if owner is None or owner.token != self.token:
            raise BusyError(
                f"{self.folder}: this process did not refresh its lease in time and another one has taken "
                "over; nothing more is written here."
            )


@dataclass(frozen=True)
class Session:
    """One command's work on many runs, by any number of workers on all machines that see its folder."""

    # leased by the command while it waits for its workers. It lists the tokens of the workers' leases
    folder: Path

    @classmethod
    @contextmanager
    def begin(cls, root: Location) -> Iterator[Self]:
        """Begin a session in the folder of all runs. Workers that are left when it ends stop their work."""
        if Path(root).exists() and not Path(root).is_dir():
            raise InputError(f"expected a folder for the runs, got the file {root}; name another by --root")
        sessions = Path(root).absolute() / SESSIONS
        _remove_dead(sessions)
        session = cls(sessions / uuid4().hex[:12])
        _make(session.folder)
        try:
            with acquire(session.folder):
                yield session
        finally:
            shutil.rmtree(session.folder, ignore_errors=True)
            _remove_dead(sessions)

    def check(self) -> None:
        """Raise AbandonedError if the command has ended."""
        if not is_leased(self.folder):
            raise AbandonedError


def _make(folder: Path) -> None:
    """Make the folder of a session; another command may remove the empty folder above it at the same time."""
    for _ in range(99):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return folder.mkdir(parents=True)
    folder.mkdir(parents=True)


def _remove_dead(sessions: Path) -> None:
    """Remove the sessions of commands that were killed, and the folder of sessions if none is left."""
    others: list[Path] = []
    with contextlib.suppress(FileNotFoundError):  # another command has removed the folder
        others = [*sessions.glob("*")]
    for other in others:
        with contextlib.suppress(OSError):
            age = _storage_time(sessions) - other.lstat().st_mtime
            begins = not _lease_file(other).owner and 0 <= age < GRACE  # its lease is not written yet
            if not begins and not is_leased(other):
                shutil.rmtree(other, ignore_errors=True)
    with contextlib.suppress(OSError):  # there are other sessions
        sessions.rmdir()


@contextmanager
def acquire(folder: Path, session: Session | None = None) -> Iterator[Lease]:
    """Hold the lease of an existing folder in the block.

    Raises BusyError if another process holds the lease, DataError if the lease cannot be written, and
    AbandonedError if the session ends while this process waits.

    Parameters
    ----------
    folder : Path
    session : Session, optional
        The session that this process works for. A lease of another worker of the same session is waited for
        and taken over, since that worker is lost.
    """
    lock, watch = _lease_file(folder), _Watch(folder / FILE)

    def is_busy() -> bool:
        if session:
            session.check()
        owner = lock.owner
        if owner is None or not is_leased(folder):  # there is no lease, or its holder is lost
            here = owner.hostname == _own_host() if owner else _is_empty(folder / FILE)
            if here or watch.seconds_unchanged() > DURATION:
                _remove_lost(folder / FILE)
            return False
        return not (session and owner.token and (session.folder / owner.token).exists())

    try:
        lock.acquire(FOREVER, POLL, cancel_check=is_busy)
    except Timeout:
        owner = lock.owner
        who = f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"
        raise BusyError(f"{folder}: {who} works on this run; wait for it, or stop it.") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{folder / FILE} cannot be written: {error.strerror}.") from error
    try:
        lease = Lease(folder, lock.token or "")
        if session:
            (session.folder / lease.token).touch()
        yield lease
    finally:
        lock.release()


class _Watch:
    """Measures how long a file has been unchanged, by the clock of this process."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen, self.since = path, (0, 0), 0.0

    def seconds_unchanged(self) -> float:
        now, seen = time.monotonic(), (0, 0)
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            seen = found.st_ino, found.st_mtime_ns
        if seen != self.seen:
            self.seen, self.since = seen, now
        return now - self.since


def _remove_lost(path: Path) -> None:
    """Remove a lease whose holder is lost, where filelock does not.

    To filelock, an empty file is the lock of a very old version. It takes over other leases by an exchange of
    two names, which NFS refuses. Should another process write a lease at the same moment, it gets its file
    back, unless a third one has made another in between.
    """
    with contextlib.suppress(OSError):
        lost = _identity(path)
        if stat.S_ISREG(path.lstat().st_mode) and not is_leased(path.parent) and _identity(path) == lost:
            aside = path.with_name(f".{FILE}.{uuid4().hex[:16]}.part")
            path.rename(aside)
            if _identity(aside) != lost:
                os.link(aside, path)
            aside.unlink()


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _is_empty(path: Path) -> bool:
    """Return whether a lease is empty: its holder was killed before it wrote it."""
    with contextlib.suppress(OSError):
        return path.lstat().st_size == 0
    return False


def is_leased(folder: Path) -> bool:
    """Return whether a process, here or on another machine, holds the lease of a folder.

    The answer is exact for processes of this machine. A process of another machine counts as lost if its
    lease was not refreshed for `DURATION` seconds, or is dated in the future. A lease that cannot be read
    counts for `GRACE` seconds, in which its holder writes it.
    """
    try:
        made = (folder / FILE).lstat().st_mtime
    except OSError:
        return False
    owner = _lease_file(folder).owner
    if owner and owner.hostname == _own_host():
        return is_alive(owner.pid)
    return -GRACE < _storage_time(folder) - made < (DURATION if owner else GRACE)


def remove_left(folder: Path) -> None:
    """Remove the lease and the unfinished files that a killed process of this machine left in a folder."""
    owner = _lease_file(folder).owner
    own = owner is None or owner.hostname == _own_host()
    left = (folder / FILE).exists() or any(folder.rglob(".*.part"))
    if left and own and not is_leased(folder):
        with contextlib.suppress(LayerprobeError), acquire(folder):
            remove_unfinished(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove the files that killed processes did not finish, in a folder whose lease this process holds."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)


def _lease_file(folder: Path) -> SoftFileLease:
    return SoftFileLease(
        folder / FILE, lease_duration=DURATION, heartbeat_interval=HEARTBEAT, thread_local=False
    )


@cache
def _own_host() -> str:
    """Return the name of this machine, and of its process namespace, as leases record it."""
    with tempfile.TemporaryDirectory() as folder, _lease_file(Path(folder)) as lock:
        owner = lock.owner
        return owner.hostname if owner else ""


def _storage_time(folder: Path) -> float:
    """Return the time of the storage of a folder; of this machine if the folder is read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
