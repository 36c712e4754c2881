"""Class names and class indices: which class belongs to which output of the network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.probes.base import encode, label_array

__all__ = ["Classes", "escape_surrogates"]


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

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_labels(
        cls, labels: np.ndarray, outputs: int | None, class_names: Sequence[Any] | None
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
        if class_names is not None:
            names = escape_surrogates(label_array(list(class_names)))
            if outputs is not None and len(names) != outputs:
                raise InputError(
                    f"class_names has {len(names)} names for {outputs} outputs of the network: give one name "
                    "per output (the default are the class names of the data)"
                )
        elif labels.dtype.kind in "iu" and outputs is not None:
            names = np.arange(outputs)
        else:
            names = encode(labels)[0]
            if outputs is not None and len(names) != outputs:
                raise InputError(
                    f"the labels have {len(names)} different names and the network {outputs} outputs: give "
                    "the names of all outputs in their order by class_names="
                )
            if outputs is not None and not _has_one_order(names.tolist()):
                raise InputError(
                    f"the order of the classes {', '.join(map(repr, names.tolist()[:4]))}, ... is not clear: "
                    "give the names of the network's outputs in their order by class_names="
                )
        if len(names) < 2 or len(set(names.tolist())) < len(names):
            raise InputError(f"expected at least two different classes, got {names.tolist()[:5]}")
        return cls(names)

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
        if labels.dtype.kind in "iu" and self.names.dtype.kind not in "iu":
            least, most = int(labels.min()), int(labels.max())
            if least < 0 or most >= len(self):
                raise InputError(f"{what} must lie in 0..{len(self) - 1}, got {least}..{most}")
            return torch.from_numpy(labels.astype(np.int64))
        try:
            return torch.tensor([self._index[label] for label in escape_surrogates(labels).tolist()])
        except KeyError as error:
            first = ", ".join(map(repr, self.names[:5].tolist()))
            more = ", ..." if len(self) > 5 else ""
            raise InputError(
                f"{what} hold {error.args[0]!r}, which is none of the {len(self)} classes {first}{more}"
            ) from None

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


def _has_one_order(names: list[Any]) -> bool:
    """Return whether sorted names are in the only plausible order of the outputs."""
    if all(isinstance(name, str) and name.isdecimal() for name in names):
        return names == sorted(names, key=int)
    try:
        return names == sorted(names)
    except TypeError:  # values without an order, which `encode` keeps in order of appearance
        return False
