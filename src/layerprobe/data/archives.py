"""Unpacking an archive into a folder: only the members asked for, and all of them or nothing."""

import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from layerprobe.data.progress import Progress, reporting
from layerprobe.errors import DataError

__all__ = ["unpack"]


def unpack(archive: Path, folder: Path, members: str, *, progress: bool | Progress = False) -> None:
    """Unpack the files of an archive's folder of the same name as `folder`, and move it in place at once.

    Parameters
    ----------
    archive : Path
        A .tar.gz or .zip file.
    folder : Path
        Where the files go; it must not exist.
    members : str
        A regular expression of the paths below the folder. Anything else in the archive is left there, so no
        name in it can lead out of `folder`, and no link is followed.
    progress : bool or callable
        As for `load`.

    Raises
    ------
    DataError
        If the archive is damaged or has no such member. `folder` does not exist then.
    """
    pattern = re.compile(rf"(?:\./)?{re.escape(folder.name)}/({members})")
    with (
        TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as part,
        reporting(progress, f"unpacking {archive.name}") as report,
    ):
        try:
            count = 0
            for name, stream in _files(archive):
                match = pattern.fullmatch(name)
                if match:
                    target = Path(part, folder.name, match[1])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as out:
                        shutil.copyfileobj(stream(), out)
                    count += 1
                    report(count, 0)
            if not count:
                raise DataError(
                    f"{archive} holds no file of {folder.name}/. It is not the published archive."
                )
            os.rename(Path(part, folder.name), folder)
        except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{archive} could not be unpacked into {folder}: {error}.") from error


def _files(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Give the name of each regular file in an archive and a function that opens it."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    yield info.filename, partial(zipped.open, info)
    else:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile():  # neither a link nor a device, so there is a stream
                    yield member.name, partial(_open_member, tar, member)


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:
        raise tarfile.ReadError(f"{member.name} is no regular file")
    return stream
