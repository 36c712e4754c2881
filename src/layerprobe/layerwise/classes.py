"""Labels and their classes, in the order of a network's outputs: the same in `probe()` and `audit()`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from layerprobe.errors import DegenerateWarning, InputError, warn
from layerprobe.layers.batches import Column, read_batches, row_count
from layerprobe.probes.base import encode, label_array, whole_numbers

IGNORED = -100  # of PyTorch's losses


# Labels -------------------------------------------------------------------------------------------------


def label_column(labels: Any, what: str = "") -> np.ndarray:
    """Return labels as an array, (n,): whole numbers as integers, bytes as texts.

    Raise if there is not one label per row, or labels are missing or -100, which PyTorch's losses ignore.

    Parameters
    ----------
    labels : sequence of n labels
    what : str
        Description for error messages.
    """
    try:
        column = label_array(labels)
        if column.dtype.kind == "S":
            column = np.char.decode(column)
        if column.dtype.kind == "f" and np.isfinite(column).all() and (column == np.trunc(column)).all():
            column = column.astype(np.int64)
        if column.dtype.kind in "iu" and (count := int((column == IGNORED).sum())):
            raise InputError(
                f"{count} labels are {IGNORED}, which marks rows without a label: leave these rows out"
            )
    except InputError as error:
        if not what:
            raise
        raise InputError(f"{what}: {error}") from error
    is_whole = column.dtype.kind in "iu" and column.dtype != np.uint64
    return column.astype(np.int64) if is_whole else escape_surrogates(column)


def escape_surrogates(values: np.ndarray) -> np.ndarray:
    r"""Return an array whose texts can be encoded as UTF-8.

    Python reads the bytes of a file name that are not UTF-8 as lone surrogates, which tables of pyarrow and
    CSV files refuse. They are written as escapes, "\udce9" in six characters. Other values stay unchanged.
    """
    if values.dtype.kind not in "UO":
        return values
    texts = {value for value in values.tolist() if isinstance(value, str)}
    escaped = {text: text.encode("utf-8", "backslashreplace").decode() for text in texts}
    if all(text == same for text, same in escaped.items()):
        return values
    result = values.astype(object)
    for i, value in enumerate(values):
        result[i] = escaped[value] if isinstance(value, str) else value
    return np.array(result.tolist()) if values.dtype.kind == "U" else result


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


def class_indices(classes: np.ndarray, labels: np.ndarray) -> Tensor:
    """Return the class index of each label, (n,) int64; -1 for labels of no class.

    Parameters
    ----------
    classes : ndarray of shape (K,)
    labels : ndarray of shape (n,)
    """
    index_of = {label: k for k, label in enumerate(classes.tolist())}
    return torch.tensor([index_of.get(label, -1) for label in labels.tolist()], dtype=torch.int64)


def as_kind(labels: np.ndarray, like: np.ndarray, what: str) -> np.ndarray:
    """Return labels as numbers or texts, whichever others are; "3" and 3 are one class.

    Raise if the texts are no numbers, or the numbers are neither 0 nor 1 where the other labels are booleans.

    Parameters
    ----------
    labels, like : ndarray of shape (n,), (m,)
        Labels, and the others.
    what : str
        Description of `labels`, for error messages.
    """
    kinds = {"U": "texts", "b": "True or False", "i": "numbers", "u": "numbers", "f": "numbers"}
    mine, theirs = kinds.get(labels.dtype.kind), kinds.get(like.dtype.kind)
    if None in (mine, theirs) or mine == theirs or not len(labels):
        return labels
    if "texts" not in (mine, theirs):
        numbers = like if theirs == "numbers" else labels
        if len(wrong := numbers[~np.isin(numbers, (0, 1))]):
            raise InputError(
                f"{what} are {mine}, but the others are {theirs}, of which {wrong[0].item()!r} is neither 0 "
                "nor 1: give both in one form"
            )
        return labels
    texts = np.unique(labels if mine == "texts" else like)
    values = whole_numbers(texts)
    if values is None:
        raise InputError(
            f"{what} are {mine} such as {labels[0].item()!r}, but the others are {theirs} such as "
            f"{like[0].item()!r}: give both in one form"
        )
    if mine == "texts":
        return values[np.searchsorted(texts, labels)]
    written = dict(zip(values.tolist(), texts.tolist(), strict=True))
    return np.array([written.get(number, str(number)) for number in labels.tolist()])


def check_test_classes(classes: np.ndarray, given: np.ndarray) -> None:
    """Raise if no test label is a class, or all are shifted by one; warn if some are no classes.

    Parameters
    ----------
    classes, given : ndarray of shape (K,), (m,)
        Of the training labels; the test labels.
    """
    distinct = encode(given)[0]
    unknown = (class_indices(classes, distinct) < 0).numpy()
    if not unknown.any():
        return
    some = ", ".join(map(repr, distinct[unknown].tolist()[:5]))
    known = ", ".join(map(repr, classes.tolist()[:5]))
    numbers = distinct.dtype.kind in "iu" and classes.dtype.kind in "iu" and len(distinct) > 1
    if numbers and any(np.array_equal(distinct + shift, classes) for shift in (-1, 1)):
        raise InputError(
            f"the test labels are {distinct[0]}..{distinct[-1]}, but the training labels "
            f"{classes[0]}..{classes[-1]}: count both from the same number on"
        )
    if unknown.all():
        raise InputError(f"no test label ({some}, ...) is among the training labels {known}, ...")
    warn(
        f"the test labels {some} are not among the training labels {known}, ...; no prediction equals them",
        DegenerateWarning,
    )


@dataclass(frozen=True, eq=False)
class LabelSets:
    """Named sets of labels for n rows.

    Attributes
    ----------
    names : tuple of S str
    classes : ndarray of shape (K,)
        Classes of all sets together, sorted if they compare.
    y : Tensor of shape (S, n), int64
        Class index of each row in each set; -1 where a set is shorter than the longest one.
    lengths : tuple of S int
        Number of labels in each set.
    """

    names: tuple[str, ...]
    classes: np.ndarray
    y: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> "LabelSets":
        """Return the sets of a mapping of names to n labels: integers, texts or any other hashables."""
        if not isinstance(labels, Mapping):
            raise InputError(
                f'train_labels must map names to labels, say {{"noisy": y}}, got {type(labels).__name__}'
            )
        if not labels:
            raise InputError("train_labels is empty: name at least one set of labels, or leave it out")
        sets = [label_column(values, f"train_labels[{name!r}]") for name, values in labels.items()]
        sets = [as_kind(y, sets[0], f"train_labels[{name!r}]") for name, y in zip(labels, sets, strict=True)]
        distinct = [encode(one)[0] for one in sets]
        if len({one.dtype.kind for one in distinct}) > 1:
            distinct = [one.astype(object) for one in distinct]
        classes = encode(np.concatenate(distinct))[0]
        classes = classes.astype(np.int64) if classes.dtype.kind == "b" else classes
        lengths = tuple(map(len, sets))
        y = torch.full((len(sets), max(lengths)), -1)
        for row, values in zip(y, sets, strict=True):
            row[: len(values)] = class_indices(classes, values)
        names = tuple(map(str, labels))
        if len(set(names)) < len(names) or "" in names:
            raise InputError(f"expected different names of the sets of labels, got {list(labels)}")
        return cls(names, classes, y, lengths)

    @property
    def changed(self) -> float:
        """Share of the rows whose label is not the same in all sets."""
        return float((self.y != self.y[0]).any(0).double().mean())

    @property
    def largest(self) -> int:
        """Number of rows of the largest class of any set."""
        return max(int(row[row >= 0].bincount().max()) for row in self.y)

    def take(self, rows: Tensor) -> "LabelSets":
        """Return the labels of some rows, given by their positions (m,) int64; raise if there are none."""
        for name, length in zip(self.names, self.lengths, strict=True):
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < length:
                raise InputError(
                    f"train_labels[{name!r}] has {length} labels for at least {int(rows.max()) + 1} rows; "
                    "give one label per training row, and indices from 0 on if there are any"
                )
        return replace(self, y=self.y[:, rows], lengths=(len(rows),) * len(self.names))

    def recode(self, given: np.ndarray) -> "LabelSets":
        """Return the class indices of other labels, (m,), as the only set."""
        return replace(self, y=class_indices(self.classes, given)[None], lengths=(len(given),))

    def values(self) -> list[np.ndarray]:
        """Return the labels themselves, S arrays (n,)."""
        return [self.classes[row.numpy()] for row in self.y]

    def require_length(self, n: int) -> None:
        """Raise an InputError unless every set has n labels."""
        for name, length in zip(self.names, self.lengths, strict=True):
            if length != n:
                raise InputError(f"train_labels[{name!r}] has {length} labels for {n} training rows")


def given_labels(labels: Column | None, split: str) -> np.ndarray:
    """Return the labels that came with data as an array, (n,); raise if there are none.

    Parameters
    ----------
    labels : Tensor or ndarray of shape (n,), or None
    split : str
        "training" or "test", for error messages.
    """
    if labels is None:
        raise InputError(f"the {split} data have no labels; give (x, y), or a loader of (x, y)")
    return label_column(labels, f"the labels of the {split} data")


def read_label_sets(source: Any, batch_size: int, model: nn.Module | None = None) -> LabelSets:
    """Read the labels that come with data, without running a model: one set called "given".

    Parameters
    ----------
    source, batch_size, model
        As for :func:`layerprobe.layers.batches.read_batches`.
    """
    batches = read_batches(source, batch_size, prepare=row_count, model=model)
    return LabelSets.of({"given": np.concatenate([given_labels(b.labels, "training") for b in batches])})


# Classes as outputs of a network ------------------------------------------------------------------------


def _name_array(names: Sequence[Any]) -> np.ndarray:
    return escape_surrogates(label_array(list(names)))


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
    array = _name_array(names)
    if labels.dtype.kind in "iu" and array.dtype.kind not in "iu":
        fits = 0 <= labels.min() <= labels.max() < len(array)
    else:
        fits = set(labels.tolist()) <= set(array.tolist())
    return tuple(array.tolist()) if fits else None


def renumbered(
    labels: np.ndarray, own: Sequence[Any] | None, names: Sequence[Any] | None, what: str
) -> np.ndarray:
    """Return labels that are indices of one list of class names as indices of another list, (n,).

    A data set with fewer classes, such as a folder of images, has its own list. Labels are returned as they
    are if they are no indices, if a list is missing, or if the lists are equal or have no name in common.

    Parameters
    ----------
    labels : ndarray of shape (n,)
    own, names : sequence, optional
        The list of `labels`, and the other list.
    what : str
        Description of `labels`, for error messages.

    Raises
    ------
    InputError
        If the other list lacks the name of a label.
    """
    if own is None or names is None or labels.dtype.kind not in "iu" or fitting_names(labels, own) is None:
        return labels
    here, there = _name_array(own).tolist(), _name_array(names).tolist()
    if here == there or not set(here) & set(there) or isinstance(there[0], int):
        return labels
    places = {name: i for i, name in enumerate(there)}
    if missing := [here[i] for i in np.unique(labels) if here[i] not in places]:
        raise InputError(f"{what} hold the class {missing[0]!r}, which the training data lack: {there[:5]}")
    return np.array([places.get(name, -1) for name in here])[labels]


class Classes:
    """The classes in the order of the network's outputs.

    Attributes
    ----------
    names : ndarray of shape (K,)
        The users' labels.
    numbers : ndarray of shape (K,), int64
        The integers that stand for the classes where names are no integers: by default their positions.
    """

    def __init__(self, names: np.ndarray, numbers: np.ndarray | None = None) -> None:
        self.names = names
        self.numbers = np.arange(len(names)) if numbers is None else numbers

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

        Raise if labels and outputs do not fit together, or the order of the classes is not clear.

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
        """
        if labels.dtype.kind == "f":
            raise InputError(
                "expected labels that are integers or names, got floating-point numbers such as "
                f"{labels[0].item()!r}: convert class numbers to integers"
            )
        labels = escape_surrogates(labels)
        is_number, names = labels.dtype.kind in "iu", None
        if class_names is not None:
            names = _name_array(class_names)
            values = whole_numbers(names) if is_number else None
            if values is not None and np.isin(labels, values).all():  # "2" on the shell is the label 2
                names = values
            if outputs is not None and len(names) != outputs:
                raise InputError(
                    f"class_names has {len(names)} names for {outputs} outputs: give one name per output "
                    "(the default are the class names of the data)"
                )
        elif known is not None and (outputs is None or len(known) <= outputs):
            if outputs is not None and is_number and not isinstance(known[0], int):
                known = [*known, *map(str, range(len(known), outputs))]
            names = _name_array(known) if outputs in (None, len(known)) else None
        if names is None:
            names = _ordered(labels, outputs)
        if len(names) < 2 or len(set(names.tolist())) < len(names):
            raise InputError(f"expected at least two different classes, got {names.tolist()[:5]}")
        # Labels that are texts of whole numbers: other labels may be these numbers.
        are_texts = not is_number and whole_numbers(labels) is not None
        return cls(names, whole_numbers(names) if are_texts else None)

    def take(self, classes: np.ndarray) -> "Classes":
        """Return some of the classes, given by their indices (k,)."""
        return Classes(self.names[classes], self.numbers[classes])

    def indices(self, labels: np.ndarray, what: str) -> Tensor:
        """Return the class indices of labels, (n,) int64; raise if a label is none of the classes.

        Parameters
        ----------
        labels : ndarray of shape (n,)
        what : str
            The labels' name in messages.
        """
        y = self.find(labels)
        if not (y < 0).any():
            return y
        if self._are_numbers(labels) and np.array_equal(self.numbers, np.arange(len(self))):
            raise InputError(
                f"{what} must lie in 0..{len(self) - 1}, got {int(labels.min())}..{int(labels.max())}"
            )
        numbers = whole_numbers(labels) if self.names.dtype.kind in "iu" else None
        shown = (labels if numbers is None else numbers)[(y < 0).numpy()].tolist()[0]
        first = ", ".join(map(repr, self.names[:5].tolist()))
        more = ", ..." if len(self) > 5 else ""
        one_based = labels.dtype.kind in "iu" and labels.min() == 1 and labels.max() == len(self)
        hint = "; the classes are numbered from 0 on: subtract 1" if one_based else ""
        if not hint and labels.dtype.kind in "iu" and len(np.unique(labels)) == len(self):
            hint = "; give the names of all outputs in their order by class_names="
        raise InputError(
            f"{what} hold {shown!r}, which is none of the {len(self)} classes {first}{more}{hint}"
        )

    def _are_numbers(self, labels: np.ndarray) -> bool:
        """Return whether labels are integers and names are not, so that labels are `numbers`."""
        return labels.dtype.kind in "iu" and self.names.dtype.kind not in "iu"

    def find(self, labels: np.ndarray) -> Tensor:
        """Return the class indices of labels (n,), int64; -1 for labels that are none of the classes."""
        if self._are_numbers(labels):
            return class_indices(self.numbers, labels)
        numbers = whole_numbers(labels) if self.names.dtype.kind in "iu" else None
        return class_indices(self.names, escape_surrogates(labels) if numbers is None else numbers)

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


def _ordered(labels: np.ndarray, outputs: int | None) -> np.ndarray:
    """Return the classes of labels in their order: whole numbers by value, else names sorted.

    Whole numbers are the indices of the network's outputs, so that classes without rows have names, too.
    """
    numbers = whole_numbers(labels)
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
            f"the labels have {len(names)} different names for {outputs} outputs: give the names of all "
            "outputs in their order by class_names="
        )
    try:
        is_sorted = names.tolist() == sorted(names.tolist())
    except TypeError:  # values without an order, which `encode` keeps in order of appearance
        is_sorted = False
    if outputs is not None and not is_sorted:
        raise InputError(
            f"the order of the classes {', '.join(map(repr, names.tolist()[:4]))}, ... is not clear: give "
            "the names of all outputs in their order by class_names="
        )
    return names


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
    known, class_names : sequence, optional
        Names of the classes that come with the data; the user's names of the outputs.
    heads : mapping of str to int
        The number of outputs of each possible head.
    """
    names = _configured_names(model)
    if class_names is None and names is not None and len(names) in {max(k, 2) for k in heads.values()}:
        if labels.dtype.kind not in "iu" and set(labels.tolist()) <= set(names):
            return names, lambda labels: labels
        if labels.dtype.kind in "iu" and known is not None and set(known) <= set(names):
            table = np.array(known)
            return names, lambda labels: table[labels] if labels.dtype.kind in "iu" else labels
    return class_names, lambda labels: labels


def _configured_names(model: Any) -> list[Any] | None:
    """Return the names of ``model.config.id2label``, if its keys are numbers 0, 1, ..., or texts of them."""
    ids = getattr(getattr(model, "config", None), "id2label", None)
    try:
        by_output = {int(key): name for key, name in ids.items()} if isinstance(ids, Mapping) else {}
    except (TypeError, ValueError):
        return None
    complete = by_output and sorted(by_output) == list(range(len(ids)))  # type: ignore[arg-type]
    return [by_output[i] for i in range(len(by_output))] if complete else None


def fitting_heads(
    heads: Mapping[str, int],
    labels: np.ndarray,
    names: Sequence[Any] | None,
    known: Sequence[Any] | None,
) -> dict[str, tuple[Classes, Tensor]]:
    """Return the possible heads of a network that fit the labels: their classes, and the class indices (n,).

    Raise if no head fits.

    Parameters
    ----------
    heads : mapping of str to int
        The number of outputs of each possible head; a single one stands for two classes.
    labels : ndarray of shape (n,)
    names, known : sequence, optional
        As `class_names` and `known` of :meth:`Classes.from_labels`.
    """
    fitting, refused = {}, None
    for name, k in heads.items():
        try:
            every = Classes.from_labels(labels, max(k, 2), names, known)
            fitting[name] = every, every.indices(labels, "labels")
        except InputError as error:
            refused = error
    if refused is not None and not fitting:
        raise refused
    return fitting
