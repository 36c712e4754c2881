"""Read files, folders and Hugging Face datasets: images, texts or numbers, and their labels."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from layerprobe.data.arrays import load_npy, load_npz
from layerprobe.data.image_readers import class_files, hub_column
from layerprobe.data.pixels import as_size, read_pixels, stack_images
from layerprobe.errors import DataError, InputError, warn
from layerprobe.layers.batches import INDEX_KEY, row_index


class RawDataset(NamedTuple):
    """The content of a file, a folder or a Hugging Face dataset of n rows."""

    content: Any  # pixels (n, h, w[, 3]) uint8, texts (n,), numbers (n, ...), columns, or a stream of rows
    labels: Sequence[Any] | np.ndarray | None  # (n,); None for rows that have them
    ids: np.ndarray | None = None  # (n,)
    class_names: Sequence[str] | None = None
    images: bool = True  # whether pixels are decoded images; else they are arrays of the user


def read_raw(data: Any, options: Mapping[str, Any]) -> RawDataset:
    """Read a path or a Hugging Face dataset.

    Parameters
    ----------
    data : path or datasets.Dataset
    options : mapping
        Of ``path_column``, ``text_column``, ``label_column`` and ``resize`` those that are given.
    """
    read: Callable[..., RawDataset] = _read_hub
    what = "a Hugging Face dataset"
    if isinstance(data, str | os.PathLike):
        data = Path(data).expanduser()
        if not data.exists():
            raise DataError(f"{data} does not exist: expected a folder, a .csv or an .npz file.")
        saved = any((data / name).is_file() for name in ("state.json", "dataset_dict.json"))
        kind = data.suffix.lower() if data.is_file() else "saved" if saved else "folder"
        readers: dict[str, tuple[Callable[..., RawDataset], str]] = {
            "saved": (_read_saved, "the saved dataset"),
            "folder": (_read_folder, "the folder of images"),
            ".csv": (_read_csv, "the .csv file"),
            ".npz": (_read_npz, "the .npz file"),
        }
        if kind not in readers:
            raise InputError(
                f"{data}: expected a folder, a .csv or an .npz file, got a file {data.suffix!r}."
            )
        read, what = readers[kind]
        what = f"{what} {data}"
    if refused := [name for name in options if name not in signature(read).parameters]:
        raise InputError(f"{refused[0]} does not apply to {what}; leave it out.")
    return read(data, **options)


def read_labels(path: Path, column: str = "label", names: np.ndarray | None = None) -> np.ndarray:
    """Read labels, integers or texts (n,), from an .npy file or from a column of a .csv file.

    Parameters
    ----------
    path : Path
    column : str
    names : ndarray (n,), optional
        Names of the rows, in whose order the labels are returned if the .csv file has the column "index".
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {state}: expected an .npy or a .csv file of labels.")
    if path.suffix.lower() == ".csv":
        table = _read_table(path)
        _require_columns(path, table, column)
        if names is not None and "index" in table:
            table = table.set_index("index")
            if not table.index.is_unique or sorted(table.index) != sorted(names.astype(str)):
                raise DataError(
                    f"{path}: expected one row for each of the {len(names)} names in the column 'index' of "
                    "the predictions, got other names. Name the rows alike, or remove the column 'index'."
                )
            table = table.loc[names.astype(str)]
        return _labels(table[column])
    if path.suffix.lower() != ".npy":
        raise InputError(f"{path}: expected an .npy or a .csv file of labels, got {path.suffix!r}.")
    labels = load_npy(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: expected integers or texts of shape (n,), got {labels.dtype} {labels.shape}."
        )
    return labels


def read_predictions(path: Path) -> tuple[np.ndarray | pd.DataFrame, np.ndarray | None]:
    """Read class probabilities or logits, (n, K), and the names of their rows, if the file has them.

    An .npy file holds an array; a .csv file has one column per class and possibly a column "index".
    """
    if path.suffix.lower() == ".npy":
        return load_npy(path), None
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path}: expected an .npy or a .csv file of predictions, got {path.suffix!r}.")
    table = _read_table(path)
    index = table.pop("index").to_numpy(dtype=str) if "index" in table else None
    numbers, bad = _numbers(table)
    if bad is not None:
        raise DataError(
            f"{path}: expected a number per class, got {table.iloc[bad]!r} in the column "
            f"{table.columns[bad[1]]!r}, row {bad[0]} (from 0)."
        )
    return numbers, index


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
    """Read images by their paths, texts, or, without such columns, numbers."""
    size = as_size(resize)
    if path_column is not None and text_column is not None:
        raise InputError("rows are images or texts: leave out path_column or text_column.")
    table = _read_table(path)
    content = text_column or path_column or next((key for key in ("path", "text") if key in table), None)
    named = INDEX_KEY in table and INDEX_KEY not in (content, label_column)
    ids = row_index(_labels(table.pop(INDEX_KEY))) if named else None
    if named and ids is None:
        warn(
            f"{path}: the column {INDEX_KEY!r} repeats values, so it does not name the rows and is left out. "
            "Rename it if it holds inputs."
        )
    if content is None:
        return _read_numbers(path, table, label_column, ids)
    _require_columns(path, table, content, label_column)
    labels, values = _labels(table[label_column]), table[content].to_numpy(object)
    if text_column is not None or (path_column is None and content == "text"):
        return RawDataset(values, labels, ids)
    paths = [path.parent / Path(value).expanduser() for value in values]  # absolute paths stay unchanged
    return RawDataset(_decode(paths, size), labels, np.array(list(values), dtype=str))


def _read_numbers(path: Path, table: pd.DataFrame, label_column: str, ids: np.ndarray | None) -> RawDataset:
    cells = table.drop(columns=label_column, errors="ignore")
    if len(table.columns) == 1:
        _require_columns(path, table, "path", label_column)
    _require_columns(path, table, label_column)
    numbers, bad = _numbers(cells)
    if bad is not None:
        raise DataError(
            f"{path}: expected numbers in every column but {label_column!r}, or a column 'path' or 'text'; "
            f"got {cells.iloc[bad]!r} in the column {cells.columns[bad[1]]!r}, row {bad[0]} (from 0). Fill "
            "or remove it, or choose a column by path_column= or text_column=."
        )
    return RawDataset(numbers.to_numpy(np.float32), _labels(table[label_column]), ids)


def _numbers(cells: pd.DataFrame) -> tuple[pd.DataFrame, tuple[int, int] | None]:
    """Return texts as numbers, and row and column of the first one that is no number."""
    numbers = cells.apply(pd.to_numeric, errors="coerce")
    bad = np.argwhere(numbers.isna().to_numpy())
    return numbers, (int(bad[0][0]), int(bad[0][1])) if len(bad) else None


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


def _labels(column: pd.Series) -> np.ndarray:
    """Return labels as integers if all are written as integers; "07" is a name."""
    texts = column.to_numpy(dtype=str)
    try:
        numbers = texts.astype(np.int64)
    except (ValueError, OverflowError):
        return texts
    return numbers if (numbers.astype(str) == texts).all() else texts


def _read_npz(path: Path) -> RawDataset:
    arrays = load_npz(path, "x", "y")
    return RawDataset(arrays["x"], arrays["y"], images=False)


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
    return _read_hub(data, text_column, label_column, saved=True)


def _read_hub(
    data: Any, text_column: str | None = None, label_column: str | None = None, *, saved: bool = False
) -> RawDataset:
    """Read the only column of images or, without one, of texts, and the only column of type ClassLabel.

    A tokenised or streamed dataset is read row by row.
    """
    if isinstance(data, Mapping):
        raise InputError(f"expected one split of the dataset, got all of {', '.join(data)}: choose one.")
    features = data.features
    if features is None or not hasattr(data, "__len__"):
        if text_column or label_column:
            raise InputError("a streamed dataset has no text_column= or label_column=: rename its columns.")
        lists = [getattr(feature, "names", None) for feature in (features or {}).values()]
        return RawDataset(data, None, class_names=next((one for one in lists if one), None))
    class_labels = [key for key in features if hasattr(features[key], "names")]
    if not class_labels:
        class_labels = [key for key in ("labels", "label", "target", "y") if key in features][:1]
    label = hub_column(features, label_column, "label_column", class_labels)
    names = getattr(features[label], "names", None)
    labels = list(data[label])
    hidden = sum(isinstance(y, int) and y < 0 for y in labels) if names is not None else 0
    if hidden:
        raise InputError(
            f"{hidden} of {len(labels)} labels are negative, which stands for hidden. Use a split "
            "that has labels."
        )
    images = [key for key in features if type(features[key]).__name__ == "Image" and key != label]
    if images and text_column is None:
        if len(images) > 1:
            raise InputError(
                f"The image column is not clear: {', '.join(images)}. Keep one by data.select_columns(...)."
            )
        return RawDataset(_hub_images(data, images[0], saved), labels, class_names=names)
    kinds = {key: getattr(features[key], "dtype", None) for key in features if key != label}
    texts = [key for key, dtype in kinds.items() if dtype in ("string", "large_string")]
    numbers = [key for key in kinds if _is_numeric(features[key])]
    tokenised = any(getattr(features[key], "feature", None) is not None for key in numbers)
    if numbers and text_column is None and (tokenised or not texts):
        plain = data.with_format(None)
        return RawDataset({key: list(plain[key]) for key in numbers}, labels, class_names=names)
    column = hub_column(features, text_column, "text_column", texts)
    values = np.empty(len(data), object)
    values[:] = list(data[column])
    return RawDataset(values, labels, class_names=names)


def _is_numeric(feature: Any) -> bool:
    """Return whether a column holds numbers or lists of them; others may name files to read."""
    inner = getattr(feature, "feature", None)
    kinds = ("int", "uint", "float", "bool")
    return _is_numeric(inner) if inner is not None else str(getattr(feature, "dtype", "")).startswith(kinds)


def _hub_images(data: Any, column: str, saved: bool) -> np.ndarray:
    """Decode a column of images here: the library would fetch addresses, and read any file that is named."""
    if not hasattr(data, "cast_column"):
        return stack_images((f"row {i}", image) for i, image in enumerate(data[column]))
    from datasets import Image

    def images() -> Any:
        for i, image in enumerate(data.with_format(None).cast_column(column, Image(decode=False))[column]):
            if image["bytes"] is not None:
                yield f"row {i}", read_pixels(io.BytesIO(image["bytes"]), name=f"row {i} of {column!r}")
                continue
            path = Path(image["path"] or "")
            if saved or not path.is_file():
                raise DataError(
                    f"row {i} of the column {column!r} names {str(image['path'])!r} in place of holding an "
                    "image: files and addresses are not read from there. Save the dataset with its images."
                )
            yield f"row {i}", path

    return stack_images(images())
