"""Verified download: a file is in place only with the MD5 that its publisher states."""

import dataclasses
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from layerprobe.data.archives import unpack
from layerprobe.data.folders import data_folder
from layerprobe.data.registry import Entry, Source, registered
from layerprobe.errors import DataError, InputError

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["fetch", "fetch_files"]


def fetch(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    base_url: str | None = None,
    progress: bool = False,
) -> Path:
    """Download an image set into the folder under `root` that `load` reads, and check the published MD5.

    Single files that are there with the right MD5 are kept; others are replaced once a good download is
    complete. A set that comes as an archive is unpacked beside its place and moved into it at once, and the
    archive is removed. If its folder is there already, nothing is fetched, and nothing in it is replaced.

    Parameters
    ----------
    name : str
        One of `available()`.
    root : path, optional
        As for `load`.
    base_url : str, optional
        Address of the folder that serves the files, instead of the publisher's.
    progress : bool
        Show a progress bar on the terminal.

    Returns
    -------
    Path
        The folder of the set.

    Raises
    ------
    InputError
        If no set has this name, or the set comes with a library and needs no download.
    DataError
        If a file could not be had with the right MD5, or the set's folder is there but not whole. Nothing
        half-written is left.
    """
    entry = registered(name)
    source = entry.source
    if source is None:
        raise InputError(f"The image set {name!r} needs no download: load({name!r}) has it at once.")
    if base_url is not None:
        source = dataclasses.replace(source, urls=(base_url,))
    folder = data_folder(root) / entry.folder
    if not source.members:
        fetch_files(source, folder, progress=progress)
    elif folder.exists():
        _check_sizes(entry, folder)
    else:
        fetch_files(source, folder.parent, progress=progress)
        (archive,) = (folder.parent / file for file in source.md5)
        unpack(archive, folder, source.members, progress=progress)
        archive.unlink()
    return folder


def _check_sizes(entry: Entry, folder: Path) -> None:
    """Raise DataError where the folder is not, as far as file sizes tell, the published set."""
    for file, expected in entry.files.items():
        path = folder / file
        if not path.is_file() or expected not in (0, path.stat().st_size):
            found = f"{path.stat().st_size:,} bytes" if path.is_file() else "missing"
            raise DataError(
                f"{folder} is there already, but is not the published set: {file} is {found}"
                + (f", not {expected:,} bytes" if expected else "")
                + ". Move the folder away to fetch the whole set."
            )


def fetch_files(source: Source, folder: Path, *, progress: bool = False) -> None:
    """Bring every file of a source into a folder, from its first address that gives the right MD5."""
    import pooch

    log = pooch.get_logger()
    level = log.level
    log.setLevel("WARNING")  # pooch's line per file would tear the progress bars
    try:
        with _bars() if progress else nullcontext() as bars:
            for file in source.md5:
                _fetch_file(source, folder, file, bars)
    finally:
        log.setLevel(level)


def _fetch_file(source: Source, folder: Path, file: str, bars: "Progress | None") -> None:
    import pooch

    failures = []
    for url in source.urls:
        address = f"{url.rstrip('/')}/{file}"
        bar = False if bars is None else _Bar(bars, file)
        downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16)
        try:
            pooch.retrieve(address, f"md5:{source.md5[file]}", file, folder, downloader=downloader)
            return
        # OSError: no connection, an HTTP status (requests' errors are OSErrors), a folder that cannot be
        # written to. ValueError: a wrong checksum, or an address that is none.
        except (OSError, ValueError) as error:
            failures.append(f"{address}: {error}")
    raise DataError(
        f"{file} could not be fetched with its published MD5 {source.md5[file]}.\n"
        + "\n".join(failures)
        + f"\nTry again later, or place these files by hand in {folder}: {', '.join(source.md5)}."
    )


def _bars() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True))


class _Bar:
    """One bar of a rich display with the face that pooch writes to."""

    def __init__(self, bars: "Progress", file: str):
        self.total = 0  # bytes; pooch sets it, and leaves 0 where the server does not tell
        self._bars = bars
        self._task = bars.add_task(file, total=None, visible=False)  # a file in place needs no bar

    def update(self, size: int) -> None:
        self._bars.update(self._task, advance=size, total=self.total or None, visible=True)

    def reset(self) -> None:
        self._bars.reset(self._task)

    def close(self) -> None:
        self._bars.stop_task(self._task)
