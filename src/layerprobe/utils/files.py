"""Files that are written as a whole: tensors with a JSON header (safetensors), tables, folders of results.

Reading a file runs no code.
"""

import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from layerprobe.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas as pd

Location = str | os.PathLike[str]

KEY = "layerprobe"
REFUSALS = FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a cell that a spreadsheet evaluates


def write_tensors(
    path: Location, tensors: Mapping[str, Tensor], kind: str, header: Mapping[str, Any]
) -> None:
    """Write tensors and a header as a whole; raise as `replace_file`.

    Parameters
    ----------
    path : path
    tensors : mapping of str to Tensor
    kind : str
        Kind and version of the file, checked by `read_tensors`.
    header : mapping
        Values that JSON can hold.
    """
    blob = safetensors.torch.save(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        {KEY: json.dumps({"kind": kind, **header})},
    )
    replace_file(path, blob)


def read_tensors(
    path: Location, kind: str, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of `write_tensors`; raise DataError for any other file.

    Parameters
    ----------
    path : path
    kind : str
        Kind and version that is expected.
    device : torch.device or str
        Device of the tensors.
    """
    path = as_path(path)
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            header = json.loads((file.metadata() or {}).get(KEY, "{}"))
            found = header.get("kind") if isinstance(header, dict) else None
            if found != kind:
                raise DataError(f"{path}: expected a file of kind {kind!r}, got {found!r:.80}.")
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: expected a file of kind {kind!r} that can be read ({error}).") from error
    except (safetensors.SafetensorError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: not a safetensors file of ours, or cut short ({error}).") from error


def write_csv(frame: "pd.DataFrame", path: Path) -> None:
    """Write a table without its index as a whole, so that a spreadsheet evaluates none of its cells.

    Texts that begin with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return get an apostrophe in front. A
    carriage return becomes a line feed, which stays inside its quoted cell.

    Parameters
    ----------
    frame : DataFrame
    path : Path
    """

    def safe(cell: Any) -> Any:
        mark = "'" if isinstance(cell, str) and cell.startswith(FORMULA) else ""
        return mark + cell.replace("\r", "\n") if isinstance(cell, str) else cell

    frame = frame.copy()
    for name in frame.select_dtypes(exclude=["number", "bool"]):
        frame[name] = frame[name].map(safe)
    replace_file(path, frame.to_csv(index=False).encode("utf-8", errors="replace"))


def replace_file(path: Location, content: bytes) -> None:
    """Write a file as a whole: a reader finds the old file or the new one, also after a power cut.

    Raises DataError if its folder does not exist, or it cannot be written.

    Parameters
    ----------
    path : path
    content : bytes
    """
    path = as_path(path)
    try:
        with replaced_file(path) as file:
            file.write(content)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the folder {path.parent} does not exist; make it first.") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file, which replaces `path` if the block ends without an error."""
    part = _part_of(path)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk before the content
        part.replace(path)
        sync_folder(path.parent)
    finally:
        # Already moved into place, or never written.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            part.unlink()
    _remove_parts(path)


def sync_folder(folder: Path) -> None:
    """Make a renamed file permanent, on systems where folders can be synchronised."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_file(path: Location, most: int = 2**30) -> bytes:
    """Return the content of a regular file of at most `most` bytes; raise DataError if there is none.

    Parameters
    ----------
    path : path
    most : int
    """
    at_once = getattr(os, "O_NONBLOCK", 0)  # a pipe must not block
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | at_once)) as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_size <= most:
                return file.read()
    except (OSError, ValueError) as error:  # a path may hold a null character
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is not a file; remove it, or name another.")
    raise DataError(f"{path} has {found.st_size:,} bytes; at most {most:,} were expected.")


def as_path(path: Location) -> Path:
    """Return the path of a file; raise an InputError for anything else."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"expected the path of a file, got {type(path).__name__}")
    return Path(path)


def require_folder(path: Location) -> None:
    """Raise InputError before any work if a path is no folder for results and cannot become one."""
    place = Path(path).resolve()
    nearest = next(part for part in (place, *place.parents) if part.exists())
    if not nearest.is_dir():
        raise InputError(f"the results need a folder, but {nearest} is a file; choose another folder")
    try:
        tempfile.TemporaryDirectory(dir=nearest).cleanup()
    except OSError as error:
        reason = f"cannot write to {nearest} ({error.strerror})"
        raise InputError(f"{reason}; choose another folder for the results") from error


def _part_of(path: Path) -> Path:
    """Return a path for a temporary file or folder beside `path`, with a random name; see `_remove_parts`."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.part")


def _remove_parts(path: Path) -> None:
    """Remove the temporary files and folders beside `path` of processes of this machine that have ended."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        made = re.fullmatch(r"([0-9a-f]{8})-([0-9]{1,9})-[0-9a-f]{16}\.part", part.name[len(path.name) + 2 :])
        if not made or made[1] != _machine() or is_alive(int(made[2])):
            continue
        with contextlib.suppress(OSError):
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink()


@cache
def _machine() -> str:
    """Return eight characters for this machine and its process namespace."""
    namespace = Path("/proc/self/ns/pid")
    number = namespace.stat().st_ino if namespace.exists() else 0
    return hashlib.sha256(f"{platform.node()} {number}".encode()).hexdigest()[:8]


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is of another user
        pass
    return True


@contextlib.contextmanager
def replaced_folder(path: Location) -> Iterator[Path]:
    """Yield a folder to write into; it takes the place of `path` as a whole after a block without error.

    Files of `path` that the block does not write are kept, as hard links where the system has them. A process
    that is killed leaves the old folder, or none for a moment between two renames, but no mixture; the next
    successful call removes what it left. A folder that cannot be written raises DataError before the block.
    """
    target = Path(path).resolve()
    part = target
    try:
        with _refusals(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            _restore(target)
            in_place = _is_fixed(target)
            beside = target / "results" if in_place else target
            part = _part_of(beside)
            part.mkdir()
            if target.exists() and not os.access(target, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        yield part
        with _refusals(path):
            if in_place:  # one file after the other
                for file in part.iterdir():
                    file.replace(target / file.name)
            else:
                _swap(part, target)
            sync_folder(target.parent)
            _remove_parts(beside)
    finally:
        if part != target:
            shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _refusals(path: Location) -> Iterator[None]:
    """Report errors of the file system in the block as a DataError."""
    try:
        yield
    except REFUSALS as error:
        raise DataError(f"the folder {path} cannot be written: {error.strerror}.") from error


def _swap(part: Path, target: Path) -> None:
    """Rename a new folder to `target`, after links to the other files of `target` are made in it."""
    if not target.exists():
        part.rename(target)
        return
    shutil.copymode(target, part)
    for item in target.iterdir():
        if re.fullmatch(r"\..*\.part", item.name) or (part / item.name).exists():
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.copytree(item, part / item.name, symlinks=True, copy_function=_link)
        else:
            _link(item, part / item.name)
    old = _part_of(target).with_suffix(".old")
    try:
        target.rename(old)
        part.rename(target)
    except BaseException:  # also Ctrl-C
        if not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _restore(target: Path) -> None:
    """Rename back a folder that a killed process renamed last; remove those that it had replaced."""
    left = target.parent.glob(f".{glob.escape(target.name)}.*.old")
    for old in sorted(left, key=lambda old: old.stat().st_mtime, reverse=True):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


def _is_fixed(target: Path) -> bool:
    """Return whether a folder cannot be renamed: it is mounted, its parent is read only, or we work in it."""
    if not target.exists():
        return False
    in_use = target.is_mount() or Path.cwd().is_relative_to(target)
    return in_use or not os.access(target.parent, os.W_OK | os.X_OK)
