"""Read .npy and .npz files without pickles, and not beyond the memory that there is."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from layerprobe.errors import DataError, InputError
from layerprobe.utils.memory_limit import require_memory


def load_npy(path: Path) -> np.ndarray:
    """Read an .npy file of numbers or texts.

    Raises
    ------
    DataError
        If the file cannot be read, holds Python objects, or is shorter than its header states.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size, str(path))
    except (DataError, InputError):
        raise
    except ValueError as error:
        raise DataError(
            f"{path} cannot be read as an .npy file: it holds no array of numbers or texts ({error})."
        ) from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an .npy file: {error}.") from error


def load_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Read the named arrays of numbers or texts from an .npz file.

    Parameters
    ----------
    path : Path
    *names : str

    Raises
    ------
    DataError
        As for `load_npy`, or if an array is missing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := [name for name in names if name not in held]:
                raise DataError(
                    f"{path} cannot be read as an .npz file: expected the arrays {' and '.join(names)}, got "
                    f"{', '.join(held) or 'none'}; {' and '.join(missing)} missing. np.savez(path, "
                    f"{', '.join(f'{name}={name}' for name in names)}) writes them."
                )
            require_memory(
                sum(held[name].file_size for name in names),
                f"the unpacked arrays of {path}",
                "give a part of the rows, or arrays as np.load(mmap_mode='r') reads them",
            )
            arrays = {}
            for name in names:
                with archive.open(held[name]) as file:
                    arrays[name] = _read(file, held[name].file_size, f"{path}: array {name}")
            return arrays
    except (DataError, InputError):
        raise
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an .npz file of numbers and texts: {error}.") from error


def _read(file: IO[bytes], size: int, what: str) -> np.ndarray:
    """Read an array after a check of its header against the number of bytes."""
    version = npy.read_magic(file)
    reader: Any = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = reader(file)
    if dtype.hasobject:
        raise DataError(
            f"{what} cannot be read: it holds Python objects, not numbers and texts, and reading them would "
            "run code from the file. Save numbers or texts, for example array.astype(str)."
        )
    needed = math.prod((dtype.itemsize, *shape))
    if min(shape, default=0) < 0 or needed != size - file.tell():
        raise DataError(
            f"{what}: the header states {needed:,} bytes of {dtype} {shape}, but {size - file.tell():,} "
            "follow. The file is damaged."
        )
    require_memory(needed, what, "give a part of the rows")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)
