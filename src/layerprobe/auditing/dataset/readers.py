"""Read any supported dataset: arrays, torch datasets and loaders, files, folders, Hugging Face datasets."""

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.lib.npyio import NpzFile
from torch.utils.data import Dataset, IterableDataset

from layerprobe.auditing.dataset.inputs import is_texts
from layerprobe.auditing.dataset.labelled import LabelledDataset
from layerprobe.data.image_readers import class_files, hub_column
from layerprobe.data.pixels import as_size, stack_images
from layerprobe.errors import DataError, InputError


class RawDataset(NamedTuple):
    """The content of a file, a folder or a Hugging Face dataset of n rows."""

    content: np.ndarray  # pixels (n, h, w[, 3]) uint8, texts (n,) or numbers (n, ...)
    labels: Sequence[Any] | np.ndarray  # (n,)
    ids: np.ndarray | None = None  # (n,)
    class_names: Sequence[str] | None = None


def read_rows(
    data: Any,
    labels: Any = None,
    *,
    inputs: Callable[[Any], Any] | None = None,
    batch_size: int = 512,
    path_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    resize: int | tuple[int, int] | None = None,
) -> LabelledDataset:
    """Read any supported dataset.

    The data are read once by this call. Texts and the images of files and of Hugging Face datasets are then
    held in memory, images at h w or 3 h w bytes each; a Dataset or a DataLoader is read again in every pass.

    Parameters
    ----------
    data
        * arrays or tensors: x with `labels`, (x, y), (x, y, index) or a dict of arrays, as for
          :func:`layerprobe.capture`; x may be a list of texts;
        * a torch Dataset or DataLoader of (x, y) in a fixed order, or of (x, y, index) in any order; the
          items of a Dataset may be Pillow images;
        * a list of batches, or another iterable that can be iterated over repeatedly;
        * the path of a folder with one subfolder of images per class, whose names are the labels; of a .csv
          file with the columns path and label, or text and label (paths are relative to the file); of an
          .npz file with the arrays x and y; of a folder that ``save_to_disk`` wrote;
        * one split of a Hugging Face dataset of images or texts;
        * a `LabelledDataset`, which stays unchanged.
    labels : sequence of n labels, optional
        They replace the labels of the data: in the order of the rows or, if the data have indices, the label
        of row i is ``labels[index[i]]``. Categories of pandas keep their order as classes.
    inputs : callable, optional
        Converts a batch's content to the model's inputs, a tensor, tuple or dict. The content is a list of
        texts, pixels (b, h, w) or (b, h, w, 3) as a uint8 tensor, or else the data's own x. The function must
        treat each row by itself and be deterministic. Texts need it. Without it, pixels become
        (b, 1 or 3, h, w) float32 in [0, 1], also those of an array or tensor; all else stays unchanged.
    batch_size : int
        Rows per batch in the first pass.
    path_column, text_column, label_column : str, optional
        Columns of a .csv file or of a Hugging Face dataset, if they have other names or are not clear.
    resize : int or (int, int), optional
        Resize image files to this (height, width); without it all must have one size.

    Returns
    -------
    LabelledDataset

    Raises
    ------
    InputError
        If rows have no stable ids (a loader that may shuffle without indices, repeated indices), the data can
        be read only once, are empty or hold NaN, lengths differ, labels are missing, or `inputs` is missing
        for texts or returns another number of rows.
    DataError
        If files are missing or cannot be read.
    """
    given = {
        "path_column": path_column,
        "text_column": text_column,
        "label_column": label_column,
        "resize": resize,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if isinstance(data, str | os.PathLike):
        raw = _read_path(Path(data).expanduser(), options)
    elif _is_hub(data):
        _check_options(options, _HUB_OPTIONS, "a Hugging Face dataset")
        raw = _read_hub(data, **options)
    elif isinstance(data, LabelledDataset):
        _check_options(options, (), "a LabelledDataset")
        if inputs is not None:
            raise InputError("this dataset was read before: give inputs= to the first call of read_rows")
        return data if labels is None else data.with_labels(labels)
    else:
        _check_options(options, (), f"data of the type {type(data).__name__}")
        names = getattr(getattr(data, "dataset", data), "classes", None)
        column = data[1] if labels is None and isinstance(data, tuple) and len(data) > 1 else labels
        categories = getattr(getattr(column, "dtype", None), "categories", None)
        if categories is not None and all(isinstance(name, str) for name in categories):
            names = list(categories)  # in the order of the class indices
        return LabelledDataset(
            _as_arrays(data), labels, inputs=inputs, class_names=names, batch_size=batch_size
        )
    return LabelledDataset(
        (raw.content, raw.labels) if labels is None else raw.content,
        labels,
        inputs=inputs,
        index=raw.ids,
        class_names=raw.class_names,
        batch_size=batch_size,
    )


def read_labels(path: Path, column: str = "label") -> np.ndarray:
    """Read labels from an .npy file or from a column of a .csv file.

    Parameters
    ----------
    path : Path
    column : str
        The column of a .csv file.

    Returns
    -------
    ndarray of shape (n,)
        Integers or texts.

    Raises
    ------
    InputError
        If the file is of another kind or holds no such labels.
    DataError
        If the file is missing or cannot be read.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {state}: expected an .npy or a .csv file of labels.")
    if path.suffix.lower() == ".csv":
        table = _read_table(path)
        _require_columns(path, table, column)
        return _integers_or_texts(table[column].to_numpy(dtype=str))
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: expected an .npy or a .csv file of labels, got {path.suffix!r}.")
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if "allow_pickle" in str(error) or "Cannot load" in str(error):  # NumPy advises to allow pickles
            error = ValueError("it holds no array of numbers or texts")
        raise DataError(f"{path} cannot be read as an .npy file: {error}.") from error
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: expected integers or texts of shape (n,), got {labels.dtype} {labels.shape}."
        )
    return labels


_HUB_OPTIONS = ("text_column", "label_column")


def _check_options(options: Mapping[str, Any], allowed: tuple[str, ...], what: str) -> None:
    if refused := [name for name in options if name not in allowed]:
        raise InputError(f"{refused[0]} does not apply to {what}; leave it out.")


def _read_path(path: Path, options: Mapping[str, Any]) -> RawDataset:
    """Read a file or folder by its kind."""
    if not path.exists():
        raise DataError(f"{path} does not exist: expected a folder, a .csv or an .npz file.")
    readers: dict[str, tuple[Callable[..., RawDataset], tuple[str, ...], str]] = {
        "saved": (_read_saved, _HUB_OPTIONS, "the saved dataset"),
        "folder": (_read_folder, ("resize",), "the folder of images"),
        ".csv": (_read_csv, ("path_column", "text_column", "label_column", "resize"), "the .csv file"),
        ".npz": (_read_npz, (), "the .npz file"),
    }
    saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    kind = path.suffix.lower() if path.is_file() else "saved" if saved else "folder"
    if kind not in readers:
        raise InputError(f"{path}: expected a folder, a .csv or an .npz file, got a file {path.suffix!r}.")
    read, allowed, what = readers[kind]
    _check_options(options, allowed, f"{what} {path}")
    return read(path, **options)


def _read_folder(root: Path, resize: int | tuple[int, int] | None = None) -> RawDataset:
    size = as_size(resize)
    classes = class_files(root)
    paths = [path for files in classes.values() for path in files]
    labels = np.repeat(list(classes), list(map(len, classes.values())))
    index = np.array([path.relative_to(root).as_posix() for path in paths])
    return RawDataset(_decode(paths, size), labels, index)


def _read_csv(
    path: Path,
    path_column: str | None = None,
    text_column: str | None = None,
    label_column: str = "label",
    resize: int | tuple[int, int] | None = None,
) -> RawDataset:
    size = as_size(resize)
    if path_column is not None and text_column is not None:
        raise InputError("rows are images or texts: leave out path_column or text_column.")
    table = _read_table(path)
    is_text = text_column is not None or (path_column is None and "path" not in table and "text" in table)
    content = text_column or path_column or ("text" if is_text else "path")
    _require_columns(path, table, content, label_column)
    labels = _integers_or_texts(table[label_column].to_numpy(dtype=str))
    values = table[content].to_numpy(object)
    if is_text:
        return RawDataset(values, labels)
    paths = [path.parent / Path(value).expanduser() for value in values]  # absolute paths stay unchanged
    return RawDataset(_decode(paths, size), labels, np.array(list(values), dtype=str))


def _decode(paths: Sequence[Path], size: tuple[int, int] | None) -> np.ndarray:
    return stack_images(((str(path), path) for path in paths), len(paths), resize=size)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)  # a class may have the name NA
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}.") from error


def _require_columns(path: Path, table: pd.DataFrame, *columns: str) -> None:
    for column in columns:
        if column not in table:
            raise DataError(
                f"{path}: expected the column {column!r}, got {', '.join(map(repr, table.columns))}. "
                "Choose the columns by path_column= or text_column=, and label_column=."
            )
    if table.empty:
        raise DataError(f"{path} has no rows.")
    empty = (table[list(columns)] == "").any(axis=1)
    if empty.any():
        raise DataError(
            f"{path}: {' or '.join(map(repr, columns))} is empty in {empty.sum()} rows, the first is row "
            f"{int(empty.to_numpy().argmax())} (from 0). Fill or remove them."
        )


def _integers_or_texts(texts: np.ndarray) -> np.ndarray:
    """Return labels as integers if all are written as integers; "07" is a name."""
    try:
        numbers = texts.astype(np.int64)
    except (ValueError, OverflowError):
        return texts
    return numbers if (numbers.astype(str) == texts).all() else texts


def _read_npz(path: Path) -> RawDataset:
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as arrays:
            if missing := [name for name in ("x", "y") if name not in arrays]:
                raise DataError(
                    f"{path}: expected the arrays x and y, got {', '.join(arrays) or 'none'}; "
                    f"{' and '.join(missing)} missing. np.savez(path, x=x, y=y) writes them."
                )
            return RawDataset(arrays["x"], arrays["y"])
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz file of numbers and texts: {error}.") from error


def _is_hub(data: Any) -> bool:
    """Return whether this is a Hugging Face dataset or the dictionary of its splits."""
    first = next(iter(data.values()), None) if isinstance(data, Mapping) else data
    return isinstance(getattr(first, "features", None), Mapping)


def _read_saved(path: Path, text_column: str | None = None, label_column: str | None = None) -> RawDataset:
    """Read a folder that ``save_to_disk`` wrote."""
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise DataError(
            f"{path} was saved by the package datasets, which is not installed: pip install 'layerprobe[hf]'."
        ) from error
    try:
        data = load_from_disk(str(path))
    except Exception as error:  # a damaged folder can raise any error of Arrow
        raise DataError(f"{path} cannot be read as a saved dataset: {error}.") from error
    if isinstance(data, Mapping):
        raise DataError(f"{path} holds the splits {', '.join(data)}: give the folder of one split.")
    return _read_hub(data, text_column, label_column)


def _read_hub(data: Any, text_column: str | None = None, label_column: str | None = None) -> RawDataset:
    """Read the only column of images or, without one, of texts, and the only column of type ClassLabel."""
    if isinstance(data, Mapping):
        raise InputError(f"expected one split of the dataset, got all of {', '.join(data)}: choose one.")
    features = data.features
    class_labels = [key for key in features if hasattr(features[key], "names")]
    label = hub_column(features, label_column, "label_column", class_labels)
    images = [key for key in features if type(features[key]).__name__ == "Image" and key != label]
    names = getattr(features[label], "names", None)
    labels = list(data[label])
    hidden = sum(isinstance(y, int) and y < 0 for y in labels) if names is not None else 0
    if hidden:
        raise InputError(
            f"{hidden} of {len(labels)} labels are negative, which stands for hidden. Use a split "
            "that has labels."
        )
    if images and text_column is None:
        if len(images) > 1:
            raise InputError(
                f"The image column is not clear: {', '.join(images)}. Keep one by data.select_columns(...)."
            )
        pictures = ((f"row {i}", image) for i, image in enumerate(data[images[0]]))
        return RawDataset(stack_images(pictures), labels, class_names=names)
    kinds = {key: getattr(features[key], "dtype", None) for key in features if key != label}
    texts = [key for key, dtype in kinds.items() if dtype in ("string", "large_string")]
    column = hub_column(features, text_column, "text_column", texts)
    values = np.empty(len(data), object)
    values[:] = list(data[column])
    return RawDataset(values, labels, class_names=names)


def _as_arrays(data: Any) -> Any:
    """Convert lists of texts and a Dataset of Pillow images to arrays; all else stays unchanged."""
    if isinstance(data, list) and is_texts(data):
        return np.array(data, object)
    if isinstance(data, tuple) and data and isinstance(data[0], list):
        return (_as_arrays(data[0]), *data[1:])
    if not isinstance(data, Dataset) or isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        return data
    first = data[0] if len(data) else None
    if not (isinstance(first, tuple) and hasattr(first[0], "convert") and hasattr(first[0], "mode")):
        return data
    columns: list[tuple] = []

    def images() -> Iterator[tuple[str, Any]]:
        for i in range(len(data)):
            image, *rest = data[i]
            columns.append(tuple(rest))
            yield f"item {i}", image

    return (stack_images(images(), len(data)), *map(list, zip(*columns, strict=True)))
