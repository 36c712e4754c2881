"""Files of tensors with a JSON header, by safetensors: reading a file runs no code."""

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from layerprobe.errors import DataError, InputError

KEY = "layerprobe"


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], kind: str, header: Mapping[str, Any]
) -> None:
    """Write tensors and a header as a whole.

    Parameters
    ----------
    path : path
    tensors : mapping of str to Tensor
    kind : str
        Kind and version of the file, checked by :func:`read_tensors`.
    header : mapping
        Values that JSON can hold.

    Raises
    ------
    DataError
        As :func:`replace_file`.
    """
    blob = safetensors.torch.save(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        {KEY: json.dumps({"kind": kind, **header})},
    )
    replace_file(path, blob)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file as a whole: a reader finds the old file or the new one, also after a power cut.

    Parameters
    ----------
    path : path
        File to write or replace; its folder must exist.
    content : bytes

    Raises
    ------
    DataError
        If the folder does not exist, or the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                part.unlink()
    except FileNotFoundError as error:
        raise DataError(f"{path}: the folder {path.parent} does not exist; make it first.") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from error


def _sync_folder(folder: Path) -> None:
    """Make a renamed file permanent, on systems where folders can be synchronised."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_tensors(
    path: str | os.PathLike[str], kind: str, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the header that :func:`write_tensors` wrote.

    Parameters
    ----------
    path : path
    kind : str
        Kind and version that is expected.
    device : torch.device or str
        Device of the tensors.

    Returns
    -------
    tuple of dict
        Tensors by name, and the header.

    Raises
    ------
    DataError
        If the file is missing, cut short or of another kind.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            header = json.loads((file.metadata() or {}).get(KEY, "{}"))
            if header.get("kind") != kind:
                raise DataError(f"{path}: expected a file of kind {kind!r}, got {header.get('kind')!r}.")
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: expected a file of kind {kind!r} that can be read ({error}).") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise DataError(f"{path}: not a safetensors file of ours, or cut short ({error}).") from error


def require_folder(path: str | os.PathLike[str]) -> None:
    """Raise before any work if a path is not a folder and cannot become one.

    Raises
    ------
    InputError
        If the path or a part of it is a file.
    """
    place = Path(path).resolve()
    file = next((part for part in (place, *place.parents) if part.exists() and not part.is_dir()), None)
    if file:
        raise InputError(f"the results need a folder, but {file} is a file; choose another folder")
