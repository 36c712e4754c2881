"""The classes of labels, in the order of a network's outputs: the same in `probe()` and `audit()`."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.layerwise.outputs import configured_names
from layerprobe.probes.base import encode, label_array, whole_numbers

IGNORED = -100  # of PyTorch's losses


def check_ignored(labels: np.ndarray) -> None:
    """Raise an InputError if integer labels (n,) hold -100, which the losses of PyTorch ignore."""
    if labels.dtype.kind in "iu" and (count := int((labels == IGNORED).sum())):
        raise InputError(
            f"{count} labels are {IGNORED}, which marks rows without a label: leave these rows out"
        )


def floats_as_integers(labels: np.ndarray) -> np.ndarray:
    """Return labels (n,) as integers where they are floating-point numbers without fractions."""
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.trunc(labels)).all():
        return labels.astype(np.int64)
    return labels


def label_column(labels: Any) -> np.ndarray:
    """Return labels as an array, (n,), floats of whole numbers as integers.

    Raises
    ------
    InputError
        If there is not one label per row, or labels are missing.
    """
    shape = np.shape(labels) if isinstance(labels, np.ndarray | Tensor) else ()
    if len(shape) > 1 and shape[1:] != (1,):
        raise InputError(f"expected one label per row, of shape (n,), got the shape {tuple(shape)}")
    try:
        missing = pd.isna(np.asarray(labels, dtype=object)) if len(shape) < 2 else np.zeros(0)
        if missing.ndim == 1 and missing.any():
            raise InputError(
                f"{missing.sum()} labels are missing (NaN or None), the first that of row "
                f"{int(missing.argmax())}: every row needs one"
            )
        column = label_array(labels)
        set(column.tolist())  # raises for labels that have no hash
    except InputError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"expected one label per row, of shape (n,): {reason}") from error
    column = floats_as_integers(column)
    check_ignored(column)
    return escape_surrogates(column)


def class_order(labels: Any) -> list[Any] | None:
    """Return the classes of labels in the order that comes with them, or None.

    It is that of the categories of pandas, and of the definition of an enumeration.
    """
    if isinstance(labels, pd.DataFrame) and labels.shape[1] == 1:
        labels = labels.iloc[:, 0]
    categories = getattr(getattr(labels, "dtype", None), "categories", None)
    if isinstance(categories, pd.Index):
        return list(categories)
    values = labels if isinstance(labels, list | tuple | np.ndarray) else ()
    if len(values) and isinstance(first := values[0], Enum) and all(type(y) is type(first) for y in values):
        return list(type(first))
    return None


def fitting_names(labels: np.ndarray, names: Sequence[Any] | None) -> tuple[Any, ...] | None:
    """Return names of classes that come with the data, or None if labels are neither such names nor indices.

    Parameters
    ----------
    labels : ndarray of shape (n,)
    names : sequence, optional
        In the order of the classes.
    """
    if names is None:
        return None
    array = escape_surrogates(label_array(list(names)))
    if labels.dtype.kind in "iu" and array.dtype.kind not in "iu":
        fits = 0 <= labels.min() <= labels.max() < len(array)
    else:
        fits = set(labels.tolist()) <= set(array.tolist())
    return tuple(array.tolist()) if fits else None


class Classes:
    """The classes in the order of the network's outputs.

    Attributes
    ----------
    names : ndarray of shape (K,)
        The users' labels.
    """

    def __init__(self, names: np.ndarray) -> None:
        self.names = names
        self._index = {name: k for k, name in enumerate(names.tolist())}
        self._numbers: dict[int, int] | None = None  # of names that are texts of whole numbers

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_labels(
        cls,
        labels: np.ndarray,
        outputs: int | None,
        class_names: Sequence[Any] | None,
        known: Sequence[Any] | None = None,
    ) -> "Classes":
        """Return the classes of training labels.

        Parameters
        ----------
        labels : ndarray of shape (n,)
        outputs : int or None
            The network's number of outputs; None without a network.
        class_names : sequence, optional
            Names of the outputs in their order. Labels are then such names, or class indices if labels are
            integers and the names are not.
        known : sequence, optional
            Names that come with the data, used without `class_names`. Missing ones are numbers.

        Raises
        ------
        InputError
            If labels and outputs do not fit together, or the order of the classes is not clear.
        """
        if labels.dtype.kind == "f":
            raise InputError(
                "expected labels that are integers or names, got floating-point numbers such as "
                f"{labels[0].item()!r}: convert class numbers to integers"
            )
        labels = escape_surrogates(labels)
        numbers = whole_numbers(labels)
        if class_names is not None:
            names = escape_surrogates(label_array(list(class_names)))
            values = whole_numbers(names) if labels.dtype.kind in "iu" else None
            if values is not None and np.isin(labels, values).all():  # "2" on the shell is the label 2
                names = values
            if outputs is not None and len(names) != outputs:
                raise InputError(
                    f"class_names has {len(names)} names for {outputs} outputs of the network: give one name "
                    "per output (the default are the class names of the data)"
                )
        elif known is not None and (outputs is None or len(known) <= outputs):
            if outputs is not None and labels.dtype.kind in "iu" and not isinstance(known[0], int):
                known = [*known, *map(str, range(len(known), outputs))]
            names = escape_surrogates(label_array(list(known)))
            if outputs is not None and len(names) != outputs:
                names = _ordered(labels, numbers, outputs)
        else:
            names = _ordered(labels, numbers, outputs)
        if len(names) < 2 or len(set(names.tolist())) < len(names):
            raise InputError(f"expected at least two different classes, got {names.tolist()[:5]}")
        classes = cls(names)
        if (
            numbers is not None
            and labels.dtype.kind not in "iu"
            and (of_names := whole_numbers(names)) is not None
        ):
            classes._numbers = {number: k for k, number in enumerate(of_names.tolist())}
        return classes

    def indices(self, labels: np.ndarray, what: str) -> Tensor:
        """Return the class indices of labels.

        Parameters
        ----------
        labels : ndarray of shape (n,)
        what : str
            The labels' name in messages.

        Returns
        -------
        Tensor of shape (n,), int64
            In 0..K-1.

        Raises
        ------
        InputError
            If a label is none of the classes.
        """
        y = self.find(labels)
        if not (y < 0).any():
            return y
        is_number = labels.dtype.kind in "iu"
        if is_number and self.names.dtype.kind not in "iu" and self._numbers is None:
            raise InputError(
                f"{what} must lie in 0..{len(self) - 1}, got {int(labels.min())}..{int(labels.max())}"
            )
        wrong = escape_surrogates(labels)[int((y < 0).int().argmax())]
        numbers = None if is_number or self.names.dtype.kind not in "iu" else whole_numbers(labels)
        wrong = wrong if numbers is None else numbers[int((y < 0).int().argmax())]
        first = ", ".join(map(repr, self.names[:5].tolist()))
        more = ", ..." if len(self) > 5 else ""
        one_based = is_number and labels.min() == 1 and labels.max() == len(self)
        hint = "; the classes are numbered from 0 on: subtract 1" if one_based else ""
        shown = wrong.item() if isinstance(wrong, np.generic) else wrong
        raise InputError(
            f"{what} hold {shown!r}, which is none of the {len(self)} classes {first}{more}{hint}"
        )

    def find(self, labels: np.ndarray) -> Tensor:
        """Return the class indices of labels (n,), int64; -1 for labels that are none of the classes."""
        labels = escape_surrogates(labels)
        if labels.dtype.kind in "iu" and self.names.dtype.kind not in "iu" and self._numbers is None:
            y = torch.from_numpy(labels.astype(np.int64))
            return torch.where((y >= 0) & (y < len(self)), y, -1)
        index, numbers = self._index, None if labels.dtype.kind in "iu" else whole_numbers(labels)
        if labels.dtype.kind in "iu" and self._numbers is not None:
            index = self._numbers
        elif self.names.dtype.kind in "iu" and numbers is not None:  # texts of whole numbers
            labels = numbers
        return torch.tensor([index.get(label, -1) for label in labels.tolist()], dtype=torch.int64)

    def check_counts(self, y: Tensor) -> None:
        """Raise InputError if a class has fewer than two of the training rows with class indices y (n,)."""
        counts = y.bincount(minlength=len(self))
        few = (counts < 2).nonzero().squeeze(1).tolist()
        if few:
            names = ", ".join(repr(self.names.tolist()[k]) for k in few[:5])
            raise InputError(
                f"expected at least two rows of every class, got {int(counts[few[0]])} of {names}: add rows, "
                "or leave out these classes"
            )


def output_names(
    model: Any,
    labels: np.ndarray,
    known: Sequence[Any] | None,
    class_names: Sequence[Any] | None,
    heads: Mapping[str, int],
) -> tuple[Sequence[Any] | None, Callable[[np.ndarray], np.ndarray]]:
    """Return the names of the outputs in their order, if known, and a function from labels to such names.

    ``model.config.id2label`` knows the order of the outputs better than the data. It is not used where it
    has names for another number of outputs.

    Parameters
    ----------
    model : nn.Module
    labels : ndarray of shape (n,)
    known : sequence, optional
        Names of the classes that come with the data.
    class_names : sequence, optional
        The user's names of the outputs.
    heads : mapping of str to int
        The number of outputs of each possible head.
    """
    names = configured_names(model)
    if class_names is None and names is not None and len(names) in {max(k, 2) for k in heads.values()}:
        if labels.dtype.kind not in "iu" and set(labels.tolist()) <= set(names):
            return names, lambda labels: labels
        if labels.dtype.kind in "iu" and known is not None and set(known) <= set(names):
            table = np.array(known)
            return names, lambda labels: table[labels] if labels.dtype.kind in "iu" else labels
    return class_names, lambda labels: labels


def fitting_heads(
    heads: Mapping[str, int],
    labels: np.ndarray,
    names: Sequence[Any] | None,
    known: Sequence[Any] | None,
) -> dict[str, tuple[Classes, Tensor]]:
    """Return the possible heads of a network that fit the labels, with their classes.

    Parameters
    ----------
    heads : mapping of str to int
        The number of outputs of each possible head; a single one stands for two classes.
    labels : ndarray of shape (n,)
    names, known : sequence, optional
        As `class_names` and `known` of :meth:`Classes.from_labels`.

    Returns
    -------
    dict of str to (Classes, Tensor of shape (n,))
        The classes of all outputs, and the class indices of the labels.

    Raises
    ------
    InputError
        If no head fits.
    """
    fitting, error = {}, None
    for name, k in heads.items():
        try:
            every = Classes.from_labels(labels, max(k, 2), names, known)
            fitting[name] = every, every.indices(labels, "labels")
        except InputError as refused:
            error = refused
    if error is not None and not fitting:
        raise error
    return fitting


def escape_surrogates(values: np.ndarray) -> np.ndarray:
    r"""Return an array whose texts can be encoded as UTF-8.

    Python reads the bytes of a file name that are not UTF-8 as lone surrogates, which tables of pyarrow and
    CSV files refuse. They are written as escapes, "\udce9" in six characters. Other values stay unchanged.
    """
    if values.dtype.kind == "U":
        characters = np.ascontiguousarray(values).view(np.uint32)
        if not ((characters >= 0xD800) & (characters <= 0xDFFF)).any():
            return values
        return np.array([_escaped(value) for value in values.tolist()])
    if values.dtype != object:
        return values
    result = values.copy()
    for i, value in enumerate(values):
        result[i] = _escaped(value) if isinstance(value, str) else value
    return result


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _ordered(labels: np.ndarray, numbers: np.ndarray | None, outputs: int | None) -> np.ndarray:
    """Return the classes of labels in their order: whole numbers by value, else names sorted.

    Whole numbers are the indices of the network's outputs, so that classes without rows have names, too.
    """
    if numbers is not None and outputs is not None and labels.dtype.kind in "iu":
        return np.arange(outputs)
    if numbers is not None:
        distinct, first = np.unique(numbers, return_index=True)
        written = dict(zip(distinct.tolist(), labels[first].tolist(), strict=True))
        if len(written) == len(set(labels.tolist())):  # "1" and "01" are two names
            if outputs is not None and distinct[0] >= 0 and distinct[-1] < outputs:
                return label_array([written.get(k, str(k)) for k in range(outputs)])
            names = label_array(list(written.values()))
            if outputs is None or len(names) == outputs:
                return names
    names = encode(labels)[0]
    if outputs is not None and len(names) != outputs:
        raise InputError(
            f"the labels have {len(names)} different names and the network {outputs} outputs: give the names "
            "of all outputs in their order by class_names="
        )
    if outputs is not None and not _is_sorted(names.tolist()):
        raise InputError(
            f"the order of the classes {', '.join(map(repr, names.tolist()[:4]))}, ... is not clear: give "
            "the names of the network's outputs in their order by class_names="
        )
    return names


def _is_sorted(names: list[Any]) -> bool:
    try:
        return names == sorted(names)
    except TypeError:  # values without an order, which `encode` keeps in order of appearance
        return False
