"""Verified download: a file is in place only with the MD5 that its publisher states."""

import dataclasses
import os
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from layerprobe.data.folders import data_folder
from layerprobe.data.progress import Progress, reporting
from layerprobe.data.registry import REGISTRY, Source
from layerprobe.errors import DataError, InputError


def fetch(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    base_url: str | None = None,
    progress: bool = False,
) -> Path:
    """Download an image set into the folder under `root` that `load` reads, and check the published MD5.

    Existing files with the right MD5 are kept; others are replaced after a complete download. An archive is
    unpacked beside the set's folder, moved into place at once and removed. If the folder exists already,
    nothing is downloaded, and nothing in it is replaced.

    Parameters
    ----------
    name : str
        One of `available()`.
    root : path, optional
        As for `load`.
    base_url : str, optional
        Address of a folder that serves the files, instead of the publisher's.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Path
        The folder of the set.

    Raises
    ------
    InputError
        If no set has this name, or the set needs no download.
    DataError
        If no address gives a file with the right MD5, or the set's folder exists but is not complete. No
        partial file is left.
    """
    entry = REGISTRY[name]
    source = entry.source
    if source is None:
        raise InputError(f"The image set {name!r} needs no download: load({name!r}) reads it at once.")
    if base_url is not None:
        source = dataclasses.replace(source, urls=(base_url,))
    folder = data_folder(root) / entry.folder
    if not source.members:
        _fetch_files(source, folder, progress)
    elif folder.exists():
        entry.check_sizes(folder)
    else:
        _fetch_files(source, folder.parent, progress)
        (archive,) = (folder.parent / file for file in source.md5)
        _unpack(archive, folder, source.members, progress)
        archive.unlink()
    return folder


def _unpack(archive: Path, folder: Path, members: tuple[str, ...], progress: bool) -> None:
    """Unpack members of the folder in a verified archive, and move the result into place at once."""
    import pooch

    names = [str(PurePosixPath(folder.name, member)) for member in members]
    processor = pooch.Unzip if archive.suffix == ".zip" else pooch.Untar
    try:
        with (
            TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as part,
            reporting(progress, f"unpacking {archive.name}") as report,
        ):
            report(0, 1)
            _check_members(archive, names)
            processor(members=names, extract_dir=part)(str(archive), "download", None)
            os.rename(Path(part, folder.name), folder)
            report(1, 1)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} cannot be unpacked into {folder}: {error}.") from error


def _check_members(archive: Path, wanted: list[str]) -> None:
    """Raise DataError for links, paths that leave the folder and missing members."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            members = dict.fromkeys(zipped.namelist(), True)
    else:
        with tarfile.open(archive, "r:gz") as tar:
            members = {member.name: member.isfile() or member.isdir() for member in tar}
    for name, is_plain in members.items():
        if not is_plain or name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise DataError(
                f"{archive}: expected files below one folder, got the member {name!r}. Delete it."
            )
    for name in wanted:
        if not any(PurePosixPath(member).is_relative_to(name) for member in members):
            raise DataError(f"{archive}: expected the published archive, but {name} is missing. Delete it.")


def _fetch_files(source: Source, folder: Path, progress: bool) -> None:
    """Download every file of a source into a folder, from its first address that gives the right MD5."""
    import pooch

    log = pooch.get_logger()
    level = log.level
    log.setLevel("WARNING")  # pooch's line per file would break the progress bars
    try:
        for file in source.md5:
            with reporting(progress, file, in_bytes=True) as report:
                _fetch_file(source, folder, file, report)
    finally:
        log.setLevel(level)


def _fetch_file(source: Source, folder: Path, file: str, report: Progress) -> None:
    import pooch

    failures = []
    for url in source.urls:
        address = f"{url.rstrip('/')}/{file}"
        downloader = pooch.HTTPDownloader(progressbar=_ByteCount(report), chunk_size=2**16)
        try:
            pooch.retrieve(address, f"md5:{source.md5[file]}", file, folder, downloader=downloader)
            return
        # OSError: no connection, an HTTP status (errors of requests are OSErrors), a folder without write
        # permission. ValueError: a wrong checksum or an invalid address.
        except (OSError, ValueError) as error:
            failures.append(f"{address}: {error}")
    raise DataError(
        f"{file} could not be fetched with its published MD5 {source.md5[file]}.\n"
        + "\n".join(failures)
        + f"\nTry again later, or place these files by hand in {folder}: {', '.join(source.md5)}."
    )


class _ByteCount:
    """Pass the bytes that pooch downloads to a progress function."""

    def __init__(self, report: Progress):
        self.total = 0  # bytes; pooch sets it, and leaves 0 if the server does not send it
        self._report = report
        self._done = 0

    def update(self, size: int) -> None:
        self._done += size
        self._report(self._done, self.total)

    def reset(self) -> None:  # pooch calls it before it sets the bar to the total once more
        self._done = 0

    def close(self) -> None:
        """Do nothing: the bar belongs to the caller."""
