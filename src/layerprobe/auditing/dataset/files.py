"""Rows from disk: a folder of images, a CSV of paths or texts, arrays, a saved hub data set."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.npyio import NpzFile

from layerprobe.auditing.dataset.found import Found
from layerprobe.auditing.dataset.hub import read_hub_folder
from layerprobe.data.image_tree import as_size, class_files, decode_files
from layerprobe.errors import DataError, InputError

__all__ = ["read_labels", "read_path"]


def read_path(
    path: Path,
    path_column: str | None,
    text_column: str | None,
    label_column: str | None,
    resize: int | tuple[int, int] | None,
) -> Found:
    """Read what lies at a path, by what it is."""
    size = as_size(resize)
    if not path.exists():
        raise DataError(f"{path} does not exist: expected a folder, a .csv or an .npz file.")
    saved = path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    kind = path.suffix.lower() if path.is_file() else "folder"
    if kind not in (".csv", ".npz", "folder"):
        raise InputError(f"{path}: expected a folder, a .csv or an .npz file, got a file {path.suffix!r}.")
    if kind != ".csv" and path_column is not None:
        raise InputError(f"path_column is for a .csv file; leave it out for {path}.")
    if not saved and kind != ".csv" and (text_column is not None or label_column is not None):
        raise InputError(
            f"columns can be named of a .csv file and of a saved hub data set; leave them out for {path}."
        )
    if size is not None and (saved or kind == ".npz"):
        raise InputError(f"resize is for image files; leave it out for {path}.")
    if saved:
        return read_hub_folder(path, text_column, label_column)
    if kind == ".csv":
        return _read_csv(path, path_column, text_column, label_column, size)
    return _read_npz(path) if kind == ".npz" else _read_folder(path, size)


def read_labels(path: Path, column: str = "label") -> np.ndarray:
    """Read one label a row, (n,): an .npy file, or a column of a .csv file."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {found}: expected an .npy or a .csv file of labels.")
    if path.suffix.lower() == ".csv":
        table = _read_table(path)
        _require_columns(path, table, column)
        return _whole_numbers(table[column].to_numpy(dtype=str))
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: expected an .npy or a .csv file of labels, got {path.suffix!r}.")
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if "allow_pickle" in str(error) or "Cannot load" in str(error):  # what it says next is no good advice
            error = ValueError("it holds no array of numbers or texts")
        raise DataError(f"{path} cannot be read as an .npy file: {error}.") from error
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: expected whole numbers or texts of the shape (n,), got {labels.dtype} {labels.shape}."
        )
    return labels


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)  # a class may be called NA
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}.") from error


def _require_columns(path: Path, table: pd.DataFrame, *columns: str) -> None:
    for column in columns:
        if column not in table:
            raise DataError(
                f"{path}: expected the column {column!r}, got {', '.join(map(repr, table.columns))}. "
                "Name the columns by path_column= or text_column=, and label_column=."
            )
    if table.empty:
        raise DataError(f"{path} has no rows.")
    empty = (table[list(columns)] == "").any(axis=1)
    if empty.any():
        raise DataError(
            f"{path}: {' or '.join(map(repr, columns))} is empty in {empty.sum()} rows, the first is row "
            f"{int(empty.to_numpy().argmax())} (from 0). Fill or remove them."
        )


def _read_folder(root: Path, size: tuple[int, int] | None) -> Found:
    classes = class_files(root)
    paths = [path for files in classes.values() for path in files]
    labels = np.repeat(list(classes), list(map(len, classes.values())))
    names = np.array([path.relative_to(root).as_posix() for path in paths])
    return Found(decode_files(paths, size), labels, names)


def _read_csv(
    path: Path, path_column: str | None, text_column: str | None, label_column: str | None, size: tuple | None
) -> Found:
    if path_column is not None and text_column is not None:
        raise InputError("rows are images or texts; leave out path_column or text_column.")
    table = _read_table(path)
    label_column = label_column or "label"
    is_text = text_column is not None or (path_column is None and "path" not in table and "text" in table)
    content = text_column or path_column or ("text" if is_text else "path")
    _require_columns(path, table, content, label_column)
    labels, values = _whole_numbers(table[label_column].to_numpy(dtype=str)), table[content].to_numpy(object)
    if is_text:
        return Found(values, labels)
    paths = [path.parent / Path(value).expanduser() for value in values]  # an absolute one stays as it is
    return Found(decode_files(paths, size), labels, np.array(list(values), dtype=str))


def _read_npz(path: Path) -> Found:
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as arrays:
            missing = [name for name in ("x", "y") if name not in arrays]
            if missing:
                raise DataError(
                    f"{path}: expected the arrays x and y, got {', '.join(arrays) or 'none'}. "
                    "np.savez(path, x=x, y=y) writes them."
                )
            return Found(arrays["x"], arrays["y"])
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz file of numbers and texts: {error}.") from error


def _whole_numbers(texts: np.ndarray) -> np.ndarray:
    """Take labels for numbers where all of them are written as whole numbers; "07" is a name."""
    try:
        numbers = texts.astype(np.int64)
    except (ValueError, OverflowError):
        return texts
    return numbers if (numbers.astype(str) == texts).all() else texts
