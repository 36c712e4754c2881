"""Tensors with a JSON header in one safetensors file: reading one can run no code."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from layerprobe.errors import DataError, InputError

__all__ = ["read_tensors", "replace_file", "require_folder", "write_tensors"]

KEY = "layerprobe"


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], kind: str, header: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON-able header, all or nothing."""
    blob = safetensors.torch.save(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        {KEY: json.dumps({"kind": kind, **header})},
    )
    replace_file(path, blob)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write beside the place, then move into it at once: a reader finds the old file or the new one.

    Raises
    ------
    DataError
        If the folder does not exist, or the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        with part.open("rb") as file:
            os.fsync(file.fileno())  # before the rename, or a power cut could leave an empty file
        part.replace(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the folder {path.parent} does not exist; make it first.") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            part.unlink()


def read_tensors(
    path: str | os.PathLike[str], kind: str, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the header that :func:`write_tensors` wrote.

    Raises
    ------
    DataError
        If the file is missing, cut short, or holds another kind of thing.
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
