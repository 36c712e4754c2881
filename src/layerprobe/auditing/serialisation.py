"""Python values as JSON and tensors: what a saved audit is made of, and nothing in it that could run.

Only what a closed table names can be packed, and only that is ever made when a file is read: no pickle.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from layerprobe.auditing.dataset.labels import Classes
from layerprobe.auditing.features import Reader
from layerprobe.auditing.method.calibration import Calibration
from layerprobe.auditing.method.candidates import Candidate
from layerprobe.auditing.method.decoder import Decoder, Member
from layerprobe.auditing.method.intervals import Interval
from layerprobe.auditing.method.noise import Noise
from layerprobe.auditing.method.verdict import Verdict
from layerprobe.auditing.pipeline import Decided
from layerprobe.core import Subspaces
from layerprobe.errors import InputError
from layerprobe.layers.views import VIEWS
from layerprobe.probes import REGISTRY

__all__ = ["Absent", "Packer", "unpack"]


class Absent:
    """A function of the user's, which no file holds; it stands where she has to give it again.

    Parameters
    ----------
    name : str
        What it was called.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{self.name} (a function, not stored)"


_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *REGISTRY.values(),
        *(Subspaces, LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis, KNeighborsClassifier),
        *(
            Decided,
            Decoder,
            Member,
            Candidate,
            Calibration,
            Noise,
            Interval,
            Verdict,
            Classes,
            Reader,
            Absent,
        ),
    )
}


class Packer:
    """Packs values, and gathers the tensors among them.

    Attributes
    ----------
    tensors : dict of str to Tensor
        What the packed values name; no two share memory.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._seen: set[int] = set()

    def pack(self, value: Any) -> Any:
        """Return what JSON can hold of a value.

        Raises
        ------
        InputError
            If there is something in it that the table does not name.
        """
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if value is ...:
            return {"ellipsis": None}
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value)}
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, pd.DataFrame):
            return {"frame": self.pack({name: value[name].to_numpy() for name in value.columns})}
        if _KINDS.get(type(value).__name__) is type(value):
            return {"object": type(value).__name__, "state": self.pack(_state(value))}
        if type(value) in (list, tuple):
            return {type(value).__name__: [self.pack(item) for item in value]}
        if isinstance(value, Mapping):
            return {"dict": [[self.pack(key), self.pack(item)] for key, item in value.items()]}
        if (view := next((name for name, known in VIEWS.items() if value is known), None)) is not None:
            return {"view": view}
        raise InputError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be stored in a file")

    def _tensor(self, tensor: Tensor) -> dict[str, Any]:
        """Store a tensor with its strides: products of numbers that lie otherwise round otherwise."""
        tensor = tensor.detach().cpu()
        count = tensor.numel()
        if not tensor.is_contiguous():
            count = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        flat = tensor.as_strided((count,), (1,))
        memory = flat.untyped_storage().data_ptr()
        name = str(len(self.tensors))
        self.tensors[name] = flat.clone() if memory in self._seen else flat
        self._seen.add(memory)
        return {"name": name, "shape": list(tensor.shape), "stride": list(tensor.stride())}

    def _array(self, array: np.ndarray) -> dict[str, Any]:
        if array.dtype == object and array.ndim == 1:
            return {"objects": [self.pack(item) for item in array]}
        if array.dtype.kind not in "biufcSUMm":
            raise InputError(f"an array of {array.dtype} {array.shape} cannot be stored in a file")
        order: Literal["F", "C"] = "F" if array.flags.fnc else "C"
        content = np.frombuffer(bytearray(array.tobytes(order)), np.uint8)
        name = str(len(self.tensors))
        self.tensors[name] = torch.from_numpy(content)
        described = {"name": name, "type": array.dtype.str, "shape": list(array.shape), "order": order}
        return {"array": described}


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that was packed; anything may be raised if it was not."""
    if isinstance(packed, Mapping):
        kind, content = next(iter(packed.items()))
        return _UNPACK[kind](packed if kind == "object" else content, tensors)
    return packed


def _state(value: Any) -> dict[str, Any]:
    if isinstance(value, tuple):
        return value._asdict()  # type: ignore[attr-defined]
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Classes):
        return {"names": value.names}
    return vars(value)


def _object(packed: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    kind, state = _KINDS[packed["object"]], unpack(packed["state"], tensors)
    if not issubclass(kind, BaseEstimator):
        return kind(**state)
    made: Any = object.__new__(kind)
    vars(made).update(state)
    return made


def _tensor(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    # A copy, since a file's memory is not aligned as torch aligns its own, and products notice that.
    return tensors[content["name"]].clone().as_strided(content["shape"], content["stride"])


def _array(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> np.ndarray:
    flat = tensors[content["name"]].numpy().copy().view(np.dtype(content["type"]))
    return flat.reshape(content["shape"], order=content["order"])


def _objects(content: list[Any], tensors: Mapping[str, Tensor]) -> np.ndarray:
    array = np.empty(len(content), object)
    for i, item in enumerate(content):  # one by one: an array of tuples must not become a table
        array[i] = unpack(item, tensors)
    return array


_UNPACK: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "ellipsis": lambda content, tensors: ...,
    "tensor": _tensor,
    "array": _array,
    "objects": _objects,
    "dtype": lambda content, tensors: getattr(torch, content),
    "frame": lambda content, tensors: pd.DataFrame(unpack(content, tensors)),
    "object": _object,
    "list": lambda content, tensors: [unpack(item, tensors) for item in content],
    "tuple": lambda content, tensors: tuple(unpack(item, tensors) for item in content),
    "dict": lambda content, tensors: {unpack(key, tensors): unpack(item, tensors) for key, item in content},
    "view": lambda content, tensors: VIEWS[content],
}
