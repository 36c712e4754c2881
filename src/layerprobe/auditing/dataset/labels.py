"""Labels as codes: which class is which output of the network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.probes.base import encode, label_array

__all__ = ["Classes"]


class Classes:
    """The classes in the order of the network's outputs.

    Attributes
    ----------
    names : ndarray of shape (K,)
        Labels as the user gives them.
    """

    def __init__(self, names: np.ndarray) -> None:
        self.names = names
        self._code = {name: k for k, name in enumerate(names.tolist())}

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, labels: np.ndarray, outputs: int | None, class_names: Sequence[Any] | None) -> "Classes":
        """Return the classes of these training labels.

        Parameters
        ----------
        labels : ndarray of shape (n,)
        outputs : int or None
            The network's number of outputs; None for features alone.
        class_names : sequence, optional
            Names of the outputs in their order. Labels are then such names, or, if they are whole numbers and
            the names are not, positions in them.

        Raises
        ------
        InputError
            If labels and outputs do not fit together.
        """
        if labels.dtype.kind == "f":
            raise InputError(
                "expected labels that are whole numbers or names, got floating-point numbers such as "
                f"{labels[0].item()!r}: labels are classes; write whole numbers as integers"
            )
        whole = labels.dtype.kind in "iu"
        if class_names is not None:
            names = label_array(list(class_names))
            if outputs is not None and len(names) != outputs:
                raise InputError(f"class_names has {len(names)} names for {outputs} outputs of the network")
        elif whole and outputs is not None:
            names = np.arange(outputs)
        else:
            names = encode(labels)[0]
            if outputs is not None and len(names) != outputs:
                raise InputError(
                    f"the labels have {len(names)} different names and the network {outputs} outputs; say by "
                    "class_names= which output is which"
                )
        if len(names) < 2 or len(set(names.tolist())) < len(names):
            raise InputError(f"expected at least two different classes, got {names.tolist()[:5]}")
        return cls(names)

    def codes(self, labels: np.ndarray, what: str) -> Tensor:
        """Return the codes 0..K-1 of labels, (n,).

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
            return torch.tensor([self._code[label] for label in labels.tolist()])
        except KeyError as error:
            first = ", ".join(map(repr, self.names[:5].tolist()))
            more = ", ..." if len(self) > 5 else ""
            raise InputError(
                f"{what} hold {error.args[0]!r}, which is none of the {len(self)} classes {first}{more}"
            ) from None

    def check_counts(self, codes: Tensor) -> None:
        """Demand two training rows of every class."""
        counts = codes.bincount(minlength=len(self))
        few = (counts < 2).nonzero().squeeze(1).tolist()
        if few:
            names = ", ".join(
                f"{self.names[k].item() if hasattr(self.names[k], 'item') else self.names[k]!r}"
                for k in few[:5]
            )
            raise InputError(
                f"expected at least two rows of every class, got {int(counts[few[0]])} of {names}: add rows, "
                "or leave out these classes"
            )
