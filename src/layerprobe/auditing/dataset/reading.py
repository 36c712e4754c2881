"""What a user calls training data, whatever its form, as `Rows`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layerprobe.auditing.dataset.files import read_path
from layerprobe.auditing.dataset.hub import is_hub, read_hub
from layerprobe.auditing.dataset.labelled import Rows
from layerprobe.auditing.dataset.raw import as_arrays
from layerprobe.errors import InputError

__all__ = ["Rows", "read_rows"]


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
) -> Rows:
    """Bring any form of labelled data into one.

    It is read once at this point. Images of files and of the hub, and texts, are then held in memory, images
    at h w or 3 h w bytes each; a Dataset or a DataLoader is read anew in every pass.

    Parameters
    ----------
    data
        * arrays or tensors: x with `labels`, (x, y), (x, y, index) or a dict of arrays, as for
          :func:`layerprobe.capture`; x may be a list of texts;
        * a torch Dataset or DataLoader of (x, y) in a fixed order, or of (x, y, index) in any order; the
          items of a Dataset may be Pillow images;
        * a list of batches, or another iterable that can be iterated over again;
        * the path of a folder with a subfolder of images a class, whose names are the labels; of a .csv file
          with the columns path and label, or text and label (paths are relative to the file); of an .npz file
          with the arrays x and y; of a folder that ``save_to_disk`` wrote;
        * a Hugging Face data set of images or texts: one split of it;
        * `Rows`, which stay as they are.
    labels : sequence of n labels, optional
        Instead of those in the data: in the order of the rows, or, where the data give indices, row i's at
        ``labels[index[i]]``.
    inputs : callable, optional
        Makes what the model takes, a tensor, tuple or dict, of what a batch holds: a list of texts, pixels
        (b, h, w) or (b, h, w, 3) as a uint8 tensor, or else what stands in the place of x. It must treat
        each row by itself and draw nothing at random. Texts need it. Pixels become (b, 1 or 3, h, w)
        float32 in [0, 1] without it, also those given as an array or tensor; all else is taken as it is.
    batch_size : int
        Rows of a batch in the first pass.
    path_column, text_column, label_column : str, optional
        Columns of a .csv file or of a hub data set, where they have other names or are not clear.
    resize : int or (int, int), optional
        Bring image files to this (height, width); without it all must have one size.

    Returns
    -------
    Rows

    Raises
    ------
    InputError
        If rows could not be named (a loader that may shuffle and gives no index, duplicated indices), the
        data can be read only once, are empty or hold NaN, lengths differ, labels are missing, or `inputs` is
        missing for texts or gives another number of rows.
    DataError
        If files are missing or cannot be read.
    """
    columns = {"path_column": path_column, "text_column": text_column, "label_column": label_column}
    given = [name for name, value in {**columns, "resize": resize}.items() if value is not None]
    if isinstance(data, str | os.PathLike):
        found = read_path(Path(data).expanduser(), path_column, text_column, label_column, resize)
    elif is_hub(data):
        if path_column is not None or resize is not None:
            raise InputError(f"{given[0]} is for files; leave it out for a hub data set")
        found = read_hub(data, text_column, label_column)
    elif given:
        raise InputError(f"{given[0]} is for files and hub data sets; leave it out for {type(data).__name__}")
    elif isinstance(data, Rows):
        if inputs is not None:
            raise InputError("these rows have been read; give inputs= to read_rows when they are read first")
        return data if labels is None else data.with_labels(labels)
    else:
        names = getattr(getattr(data, "dataset", data), "classes", None)
        return Rows(as_arrays(data), labels, inputs=inputs, class_names=names, batch_size=batch_size)
    return Rows(
        (found.content, found.labels) if labels is None else found.content,
        labels,
        inputs=inputs,
        names=found.names,
        class_names=found.class_names,
        batch_size=batch_size,
    )
