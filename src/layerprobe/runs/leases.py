"""One process a folder, among all machines that see it: claims that end with their holder, however it ends.

A claim is a file ``lock-1``, ``lock-2``, ... that is made only if it is not there, so that one of many gets
it; the highest number counts, and numbers never come again. It says who holds it; ``lock-3.free`` was let go.
Its holder is at work as long as the system's own lock on the file is held, which ends with the process. Where
that lock cannot be seen, from another machine, the holder counts as lost when the file's time has not changed
for `EXPIRY` seconds. A holder that was only out of touch finds itself replaced at the next `Claim.check`, and
stops.

Storage must make a file exclusively, show it to every machine at once and date files by one clock, or by
clocks that agree within a minute: a local disk, NFS 4, Lustre, CephFS; no object store behind a file
interface.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from layerprobe.errors import InputError, LayerprobeError

__all__ = ["Abandoned", "BusyError", "Claim", "Sweep", "is_locked", "locked"]

BEAT = 15.0  # seconds between two signs of life
EXPIRY = 120.0  # longer than a few beats and a network file system's cache of file times
WAIT = 1.0  # seconds between two looks at a claim that our own sweep has lost


class BusyError(LayerprobeError, BlockingIOError):
    """Another process is at work in this folder.

    Attributes
    ----------
    sweep : str or None
        The sweep that this process belongs to, if it is known.
    """

    sweep: str | None = None


class Abandoned(BaseException):
    """The command that this work was for has ended; nobody waits for it."""


@dataclass(frozen=True)
class Claim:
    """A folder that is ours.

    Attributes
    ----------
    folder : Path
        The folder.
    number : int
        Which claim on it.
    """

    folder: Path
    number: int

    @property
    def path(self) -> Path:
        """Return its file."""
        return self.folder / f"lock-{self.number}"

    def check(self) -> None:
        """Raise BusyError if this process was out of touch so long that another has taken its place."""
        if _latest(self.folder) != (self.number, False):
            raise _busy(self.folder, {})


@dataclass(frozen=True)
class Sweep:
    """One command's work on many runs, by any number of workers on any machine that sees its folder.

    Attributes
    ----------
    folder : Path
        Claimed by the command as long as it waits for its workers.
    """

    folder: Path

    @classmethod
    @contextmanager
    def begin(cls, root: str | os.PathLike[str]) -> Iterator["Sweep"]:
        """Begin one, under the folder of all runs; when it ends, workers stop what they still do for it."""
        if Path(root).exists() and not Path(root).is_dir():
            raise InputError(f"expected a folder for the runs, got the file {root}; name another by --root")
        sweeps = Path(root).absolute() / ".sweeps"
        for lost in {path.parent for path in sweeps.glob("*/lock-*")}:
            if not is_locked(lost):
                shutil.rmtree(lost, ignore_errors=True)
        sweep = cls(sweeps / uuid4().hex[:12])
        sweep.folder.mkdir(parents=True)
        try:
            with locked(sweep.folder):
                yield sweep
        finally:
            shutil.rmtree(sweep.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # others are still there
                sweeps.rmdir()

    @property
    def name(self) -> str:
        """What its workers' claims bear."""
        return self.folder.name

    def check(self) -> None:
        """Raise Abandoned if the command has ended."""
        if not is_locked(self.folder):
            raise Abandoned


@contextmanager
def locked(folder: Path, sweep: Sweep | None = None) -> Iterator[Claim]:
    """Hold a folder.

    Parameters
    ----------
    folder : Path
        The folder, which is there.
    sweep : Sweep, optional
        What this process works for. A claim of the same sweep belongs to a worker that was lost, or is about
        to be known as lost: it is waited for and taken over.

    Raises
    ------
    BusyError
        If another process holds it.
    Abandoned
        If the sweep ends while we wait.
    """
    claim, descriptor = _take(folder, sweep)
    over = Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):  # storage that is out of reach for a while
                os.utime(descriptor)

    heart = Thread(target=beat, name="claim", daemon=True)
    heart.start()
    try:
        yield claim
    finally:
        over.set()
        heart.join()
        _release(claim, descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a process, here or on another machine, holds the folder now."""
    number, free = _latest(folder)
    return number > 0 and not free and _holder(Claim(folder, number)) is not None


def _take(folder: Path, sweep: Sweep | None) -> tuple[Claim, int]:
    """Return our claim and its open file."""
    while True:
        try:
            return _try(folder, sweep)
        except BusyError as busy:
            if sweep is None or busy.sweep != sweep.name:
                raise
        sweep.check()
        time.sleep(WAIT)


def _try(folder: Path, sweep: Sweep | None) -> tuple[Claim, int]:
    number, free = _latest(folder)
    if number and not free and (holder := _holder(Claim(folder, number))) is not None:
        raise _busy(folder, holder)
    claim = Claim(folder, number + 1)
    try:
        descriptor = os.open(claim.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        raise _busy(folder, _holder(claim) or {}) from None
    try:
        owner = {
            "host": platform.node(),
            "pid": os.getpid(),
            "machine": _machine(),
            "kernel": _flock(descriptor, exclusive=True),
            "sweep": sweep.name if sweep else None,
        }
        os.write(descriptor, json.dumps(owner).encode())
        os.fsync(descriptor)  # for other machines to read
        claim.check()  # we may have looked at the folder long ago
        for older in folder.glob("lock-*"):
            if (found := _number(older.name)) and found[0] < claim.number:
                older.unlink(missing_ok=True)
    except BaseException:
        _release(claim, descriptor)
        raise
    return claim, descriptor


def _release(claim: Claim, descriptor: int) -> None:
    with contextlib.suppress(OSError):  # replaced while we were out of touch, or the folder is gone
        os.ftruncate(descriptor, 0)
        claim.path.rename(claim.path.with_suffix(".free"))
    os.close(descriptor)


def _latest(folder: Path) -> tuple[int, bool]:
    """Return the number of the claim that counts, 0 if there was never one, and whether it was let go."""
    try:
        found = [_number(name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return 0, True
    return max(filter(None, found), default=(0, True))  # let go counts more than the same claim held


def _number(name: str) -> tuple[int, bool] | None:
    found = re.fullmatch(r"lock-(\d+)(\.free)?", name)
    return (int(found[1]), found[2] is not None) if found else None


def _holder(claim: Claim) -> dict[str, Any] | None:
    """Return what a claim says of its holder; None if that has ended or is lost."""
    try:
        descriptor = os.open(claim.path, os.O_RDONLY)
    except FileNotFoundError:  # it has just been let go, or replaced
        return None
    try:
        held = _flock(descriptor, exclusive=False) is False
        owner = _read(descriptor)
        if held:
            return owner
        if owner.get("kernel") and owner.get("machine") == _machine():
            return None
        return owner if _now(claim.folder) - os.fstat(descriptor).st_mtime < EXPIRY else None
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> dict[str, Any]:
    try:
        return json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # it is just being written
        return {}


def _flock(descriptor: int, *, exclusive: bool) -> bool | None:
    """Lock a file as the system does: True if we hold it, False if another does, None if this storage cannot.

    Only its maker takes a file exclusively; to share it for an instant is to ask.
    """
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _now(folder: Path) -> float:
    """Return the time by the clock that dates files in a folder; by our own where we cannot write."""
    try:
        descriptor, path = tempfile.mkstemp(prefix=".clock-", suffix=".part", dir=folder)
    except OSError:
        return time.time()
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        os.unlink(path)


def _machine() -> str:
    """Return what processes that see each other's locks have in common."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def _busy(folder: Path, holder: dict[str, Any]) -> BusyError:
    who = f"process {holder['pid']} on {holder['host']}" if "pid" in holder else "another process"
    error = BusyError(f"{folder}: {who} is at work on this run; wait for it, or stop it.")
    error.sweep = holder.get("sweep")
    return error
