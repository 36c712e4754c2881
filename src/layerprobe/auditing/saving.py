"""Save an audit as one safetensors file with a JSON header, or send it to the processes of a job.

Values are packed by closed tables of classes, dtypes and views; a file cannot name anything else. The
network, the rows and the user's functions are not stored.
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import EllipsisType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from sklearn.base import BaseEstimator
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from layerprobe.auditing.arrays import GivenScores
from layerprobe.auditing.dataset.conflicts import Conflicts
from layerprobe.auditing.dataset.labelled import hash_network
from layerprobe.auditing.features import NetworkReader, check_flag_rule
from layerprobe.auditing.findings import Findings
from layerprobe.auditing.method.calibration import Calibration, RankScale
from layerprobe.auditing.method.ensemble import Candidate, EnsembleMember, ProbeEnsemble
from layerprobe.auditing.method.noise import NoiseEstimate
from layerprobe.auditing.method.policies import (
    BASELINE_COLUMNS,
    CANDIDATE_COLUMNS,
    POLICIES,
    Interval,
)
from layerprobe.auditing.review.decisions import OUTSIDE, Decisions
from layerprobe.core import Subspaces
from layerprobe.errors import DataError, InputError, LayerError
from layerprobe.layers.capturing import Pool, check_pool
from layerprobe.layers.views import VIEWS, View, resolve_views
from layerprobe.layerwise.classes import Classes
from layerprobe.probes import REGISTRY, Probe
from layerprobe.utils.distributed import from_first
from layerprobe.utils.files import read_tensors, write_tensors

KIND = "layerprobe.audit.3"
HEADER = "packed"  # the JSON header among the tensors that are sent


@dataclass(frozen=True, eq=False, repr=False)
class MissingCallable:
    """Placeholder in a file for a function of the user, by its name, who has to pass it again."""

    name: str

    def __repr__(self) -> str:
        return f"{self.name} (a function, not stored)"


CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(*REGISTRY.values(), GivenScores, Subspaces),
        *(LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis, KNeighborsClassifier),
        *(Findings, ProbeEnsemble, EnsembleMember, Candidate, Calibration, RankScale, NoiseEstimate),
        *(Interval, Classes, NetworkReader, MissingCallable, Decisions, Conflicts),
    )
}
# The fields of an audit in a file, with their types.
AUDIT: dict[str, Any] = {
    "findings": Findings,
    "y": Tensor,
    "index": np.ndarray,
    "class_set": Classes,
    "policy": str,
    "settings": dict[str, Any],
    "cost": dict[str, float],
    "reader": NetworkReader | None,
    "flag_rule": str | float,
    "conflict_set": Conflicts | None,
}
READER = {  # types in a file, without a network and functions
    "model": type(None),
    "layers": str | list[str | EllipsisType] | tuple[str | EllipsisType, ...] | None,
    "pool": str | MissingCallable | dict[str, str | MissingCallable | None] | None,
    "views": dict[str, Any],
    "batch_size": int,
    "device": type(None),
    "head": str | None,
    "outputs": tuple[int, ...] | None,
}
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
}
MOST_FEATURES = 2**28  # of one row
MOST_NUMBERS = 2**32  # of one tensor, whose strides may repeat a few stored numbers
REFUSED = (
    *(KeyError, TypeError, ValueError, AttributeError, IndexError),
    *(RuntimeError, ArithmeticError, MemoryError),
)
ARRAY_KINDS = "biufcSUMm"  # numbers, texts and dates; never Python objects


def write_audit(path: str | os.PathLike[str], audit: Any) -> None:
    """Write an audit with its fitted ensemble, see `Audit.save`.

    Parameters
    ----------
    path : path
    audit : Audit
    """
    refused = [
        f"{member.candidate.probe!r} on layer {member.candidate.layer!r}, {reason}"
        for member in audit.findings.ensemble.members
        if (reason := _not_storable(member.probe))
    ]
    if refused:
        raise InputError(
            f"the decoder has probes that cannot be stored in a file: {'; '.join(refused)}. Audit with "
            "probes of layerprobe only to save it"
        )
    tensors: dict[str, Tensor] = {}
    base = audit.original or audit
    decisions = None if audit.review is None else audit.review.decisions
    state = {**_state_of(base), "conflict_set": base.all_conflicts, "decisions": decisions}
    packed = pack(state, tensors)
    write_tensors(path, tensors, KIND, {"audit": packed, "sha256": _checksum(packed, tensors)})


def _state_of(audit: Any) -> dict[str, Any]:
    """Return the fields of an audit in a file, without functions of the user."""
    state = {name: getattr(audit, name) for name in AUDIT}
    state["settings"] = _without_functions(audit.settings)
    if (reader := audit.reader) is not None:
        views = {
            name: view if view in VIEWS.values() else MissingCallable(name)
            for name, view in reader.views.items()
        }
        pool = _without_functions(reader.pool)
        state["reader"] = replace(reader, model=None, device=None, views=views, pool=pool)
    return state


def _arguments_from(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Audit` from what `_state_of` returned."""
    return {name: _of_type(state[name], hint, name) for name, hint in AUDIT.items()}


def read_audit(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    views: str | View | Iterable[str | View] | Mapping[str, View] = (),
    pool: Pool = None,
    inputs: Any = None,
) -> dict[str, Any]:
    """Return the arguments of `Audit` from a file, and the decisions of reviewers as "decisions".

    Parameters
    ----------
    path, model, views, pool, inputs
        As for `Audit.load`.
    """
    tensors, header = read_tensors(path, KIND)
    try:
        if header["sha256"] != _checksum(header["audit"], tensors):
            raise DataError(f"{path}: damaged, its content is not what was written; save the audit again.")
        state = unpack(header["audit"], tensors)
        decisions = _of_type(state["decisions"], Decisions | None, "decisions")
        arguments = {**_arguments_from(state), "decisions": decisions}
        _check_arguments(arguments)
    except REFUSED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: an audit that this version cannot read ({reason:.200}).") from error
    given = {"views": resolve_views(views), "pool": pool, "inputs": inputs}
    if model is None:
        if needless := [name for name, value in given.items() if value]:
            raise InputError(f"{needless[0]}= goes with the network, which predicts: pass model= as well")
        return arguments
    reader, settings = arguments["reader"], arguments["settings"]
    if reader is None:
        raise InputError("this is an audit of features: it predicts from features, without a network")
    if not isinstance(model, nn.Module):
        raise InputError(f"expected the network as an nn.Module, got {type(model).__name__}")
    given = _with_functions({"views": reader.views, "pool": reader.pool, "inputs": settings["inputs"]}, given)
    reader = replace(reader, model=model, views=given["views"], pool=given["pool"])
    _check_network(reader, settings, len(arguments["class_set"]))
    return {**arguments, "reader": reader, "settings": {**settings, "inputs": given["inputs"]}}


def _of_type(value: Any, hint: Any, name: str) -> Any:
    """Return a value; raise a ValueError if it is not of an annotated type."""
    if not _is_of_type(value, hint):
        raise ValueError(f"{name} is {value!r:.60}")
    return value


def _is_of_type(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind is UnionType:
        return any(_is_of_type(value, part) for part in parts)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if kind in (tuple, list):
        return isinstance(value, kind) and all(_is_of_type(item, parts[0]) for item in value)
    if kind is dict:
        return isinstance(value, dict) and all(
            _is_of_type(key, parts[0]) and _is_of_type(item, parts[1]) for key, item in value.items()
        )
    return isinstance(value, hint)


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError that names an entry of another shape or range than `Audit` has."""

    def require(holds: bool, name: str, value: Any) -> None:
        if not holds:
            raise ValueError(f"{name} is {value!r:.60}")

    def floats(name: str, value: Any, *shape: int | None) -> None:
        array = np.asarray(value)
        fits = array.dtype.kind == "f" and array.ndim == len(shape) and bool(np.isfinite(array).all())
        require(fits and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True)), name, value)

    y, findings, classes = arguments["y"], arguments["findings"], arguments["class_set"]
    require(isinstance(classes.names, np.ndarray) and classes.names.ndim == 1, "names", classes.names)
    n, K = len(y), len(classes)
    require(classes.numbers.dtype.kind == "i" and classes.numbers.shape == (K,), "numbers", classes.numbers)
    require(y.ndim == 1 and y.dtype == torch.int64 and n > 0 and 0 <= y.min() <= y.max() < K, "y", y)
    require(arguments["index"].shape == (n,), "index", arguments["index"])
    require(arguments["policy"] in POLICIES, "policy", arguments["policy"])
    check_flag_rule(arguments["flag_rule"])
    if (conflicts := arguments["conflict_set"]) is not None:
        for rows in (conflicts.positions, conflicts.others, conflicts.group):
            require(rows.dtype.kind == "i" and rows.shape == (len(conflicts),), "conflicts", rows)
        for rows in (conflicts.positions, conflicts.others):
            require(bool(((rows >= 0) & (rows < n)).all()), "conflicts", rows)
        floats("similarity", conflicts.similarity, len(conflicts))
    if (decisions := arguments["decisions"]) is not None:
        positions, decided = decisions.positions, decisions.y
        require(len(positions) == len(decided) == len(decisions.reviewers), "decisions", decisions)
        require(bool(((positions >= 0) & (positions < n)).all()), "decisions", positions)
        require(bool(((decided >= OUTSIDE) & (decided < K)).all()), "decisions", decided)
    calibration, noise = findings.calibration, findings.noise
    floats("scores", findings.scores, n, K)
    floats("matrix", calibration.matrix, K, K)
    floats("betas", calibration.betas, None)
    floats("rates", calibration.rates, None)
    floats("matrices", calibration.matrices, None, K, K)
    require(0 < len(calibration.betas) <= len(calibration.matrices), "betas", calibration.betas)
    if (scale := calibration.scale) is not None:
        floats("reference", scale.reference, None)
        require(len(scale.reference) > 0 and 0 <= scale.gap < np.inf, "scale", scale)
    require(all(0 <= share <= 1 for share in (noise.rate, noise.low, noise.high)), "noise", noise)
    floats("prior", noise.prior, K)
    for name in ("matrix", "matrix_low", "matrix_high"):
        floats(name, getattr(noise, name), K, K)
    for name, columns in (("layers", CANDIDATE_COLUMNS), ("controls", BASELINE_COLUMNS)):
        value = getattr(findings, name)
        require(list(value.columns) == columns, name, value)
    controls = findings.controls
    named = all(isinstance(name, str) for name in controls["control"]) and controls["control"].is_unique
    require(
        named and all(one is None or np.isscalar(one) for one in controls["beaten"]), "controls", controls
    )
    require(bool(findings.ensemble.members), "members", findings.ensemble)
    for member in findings.ensemble.members:
        d = _of_type(member.probe.n_features_in_, int, "n_features_in_")
        require(0 < d < MOST_FEATURES, "n_features_in_", d)
        with warnings.catch_warnings(action="ignore"):
            scores = member.probe.class_scores(torch.ones(1, d))  # raises for attributes that do not fit
        floats(f"probe {member.candidate.probe!r}", scores, 1, K)
    if (reader := arguments["reader"]) is not None:
        require(reader.batch_size > 0, "batch_size", reader.batch_size)
        for pool in reader.pool.values() if isinstance(reader.pool, dict) else [reader.pool]:
            if not isinstance(pool, MissingCallable):
                check_pool(pool)
        for view in reader.views.values():
            require(isinstance(view, MissingCallable) or view in VIEWS.values(), "views", view)


def check_sendable(probes: Mapping[str, Probe]) -> None:
    """Raise an InputError if a probe, by its name, cannot be sent to the other processes of a job."""
    for name, probe in probes.items():
        if reason := _not_storable(probe):
            raise InputError(
                f"an audit on several processes sends its decoder to all of them, and {name!r} cannot be "
                f"sent ({reason}); use probes of layerprobe only, or one process"
            )


def send_audit(audit: Any) -> None:
    """Send an audit, without its reader, to the other processes of the job."""
    tensors: dict[str, Tensor] = {}
    header = json.dumps(pack(_state_of(replace(audit, reader=None)), tensors)).encode()
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    content[HEADER] = torch.tensor([*header], dtype=torch.uint8)
    from_first(safetensors.torch.save(content))


def receive_audit() -> dict[str, Any]:
    """Return the arguments of `Audit` that the first process of the job sends."""
    tensors = safetensors.torch.load(from_first(None))
    header = tensors.pop(HEADER).numpy().tobytes()
    return _arguments_from(unpack(json.loads(header), tensors))


def _not_storable(value: Any) -> str | None:
    """Return why a value cannot be stored; None if it can."""
    try:
        pack(value, {})
    except InputError as error:
        return str(error)
    return None


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON, and add its tensors and arrays to `tensors`.

    Parameters
    ----------
    value : object
        Numbers, texts, tensors, arrays, tables, containers, and instances of the classes in `CLASSES`;
        anything else is an InputError.
    tensors : dict of str to Tensor
        No two share memory.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if value is ...:
        return {"ellipsis": None}
    if isinstance(value, Tensor):
        return {"tensor": _pack_tensor(value, tensors)}
    if isinstance(value, np.ndarray):
        return _pack_array(value, tensors)
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, pd.DataFrame):
        return {"frame": pack({name: value[name].to_numpy() for name in value.columns}, tensors)}
    if CLASSES.get(type(value).__name__) is type(value):
        return {"object": type(value).__name__, "state": pack(_attributes(value), tensors)}
    if type(value) in (list, tuple):
        return {type(value).__name__: [pack(item, tensors) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    if (view := next((name for name, known in VIEWS.items() if value is known), None)) is not None:
        return {"view": view}
    raise InputError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be stored in a file")


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that was packed; raise an error of `REFUSED` for anything that `pack` did not make.

    Parameters
    ----------
    packed : object
    tensors : mapping of str to Tensor
    """
    if packed is None or isinstance(packed, bool | int | float | str):
        return packed
    if not isinstance(packed, Mapping) or not packed:
        raise ValueError(f"an entry is {packed!r:.60}")
    kind, content = next(iter(packed.items()))
    match kind:
        case "ellipsis":
            return ...
        case "tensor":
            if math.prod(content["shape"]) > MOST_NUMBERS:
                raise ValueError(f"a tensor of the shape {content['shape']}")
            # A copy: a file's memory is aligned in another way, which changes the rounding of products.
            return tensors[content["name"]].clone().as_strided(content["shape"], content["stride"])
        case "array":
            if (dtype := np.dtype(content["type"])).kind not in ARRAY_KINDS:
                raise ValueError(f"an array of {dtype}")
            flat = tensors[content["name"]].numpy().copy().view(dtype)
            return flat.reshape(content["shape"], order=content["order"])
        case "objects":
            # Of an iterator: an array of tuples must stay one-dimensional.
            return np.fromiter((unpack(item, tensors) for item in content), object, len(content))
        case "dtype":
            return DTYPES[content]
        case "view":
            return VIEWS[content]
        case "frame":
            return pd.DataFrame(unpack(content, tensors))
        case "object":
            return _unpack_object(CLASSES[content], unpack(packed["state"], tensors))
        case "list":
            return [unpack(item, tensors) for item in content]
        case "tuple":
            return tuple(unpack(item, tensors) for item in content)
        case "dict":
            return {unpack(key, tensors): unpack(item, tensors) for key, item in content}
    raise ValueError(f"unknown kind of value {kind!r}")


def _pack_tensor(tensor: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Store a tensor with its strides, since the memory layout changes the rounding of products."""
    tensor = tensor.detach().cpu()
    count = tensor.numel()
    if not tensor.is_contiguous():
        count = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    flat = tensor.as_strided((count,), (1,))
    memory = flat.untyped_storage().data_ptr()
    shared = any(other.untyped_storage().data_ptr() == memory for other in tensors.values())
    name = str(len(tensors))
    tensors[name] = flat.clone() if shared else flat
    return {"name": name, "shape": list(tensor.shape), "stride": list(tensor.stride())}


def _pack_array(array: np.ndarray, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if array.dtype == object and array.ndim == 1:
        return {"objects": [pack(item, tensors) for item in array]}
    if array.dtype.kind not in ARRAY_KINDS:
        raise InputError(f"an array of {array.dtype} {array.shape} cannot be stored in a file")
    order: Literal["F", "C"] = "F" if array.flags.fnc else "C"
    name = str(len(tensors))
    tensors[name] = torch.from_numpy(np.frombuffer(bytearray(array.tobytes(order)), np.uint8))
    return {
        "array": {"name": name, "type": array.dtype.str, "shape": list(array.shape), "order": order},
    }


def _attributes(value: Any) -> dict[str, Any]:
    if isinstance(value, tuple):
        return value._asdict()  # type: ignore[attr-defined]
    names = [field.name for field in fields(value)] if is_dataclass(value) else list(vars(value))
    return {name: getattr(value, name) for name in names}


def _unpack_object(kind: type, attributes: Mapping[str, Any]) -> Any:
    if not issubclass(kind, BaseEstimator):
        value = kind(**attributes)
        for name, hint in (READER if kind is NetworkReader else get_type_hints(kind)).items():
            _of_type(getattr(value, name), hint, name)
        return value
    for name, value in attributes.items():
        if not str(name).isidentifier() or callable(value) or callable(getattr(kind, name, None)):
            raise ValueError(f"{kind.__name__}.{name} is {value!r:.60}")
    estimator: Any = object.__new__(kind)
    vars(estimator).update(attributes)
    return estimator


def _without_functions(value: Any) -> Any:
    """Return a value, or a mapping of values, with placeholders for functions of the user."""
    if isinstance(value, Mapping):
        return {name: _without_functions(item) for name, item in value.items()}
    return MissingCallable(getattr(value, "__name__", type(value).__name__)) if callable(value) else value


def _with_functions(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return views, pool and inputs as stored, completed by the user's functions."""
    given = {**given, "views": {**stored["views"], **given["views"]}}
    missing = []
    for name, value in stored.items():
        if given[name] is None:
            given[name] = value
        if not _matches(value, given[name]):
            was = list(value) if isinstance(value, Mapping) else value
            raise InputError(f"{name}= is not what the audit was made with, {was}")
        parts = given[name].values() if isinstance(given[name], Mapping) else [given[name]]
        missing += [f"{name}= ({part.name})" for part in parts if isinstance(part, MissingCallable)]
    if missing:
        raise InputError(
            f"the audit was made with functions, which are not stored; pass again {', '.join(missing)}"
        )
    return given


def _matches(stored: Any, given: Any) -> bool:
    if isinstance(stored, MissingCallable):
        return callable(given) or given is stored
    if isinstance(stored, Mapping) and isinstance(given, Mapping) and list(stored) == list(given):
        return all(_matches(value, given[key]) for key, value in stored.items())
    return stored == given


def _check_network(reader: NetworkReader, settings: Mapping[str, Any], classes: int) -> None:
    """Raise unless the network has the audited layers and weights."""
    try:
        layers, heads = reader.dimensions(reader.blank)
    except (LayerError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"the network is not the one that was audited: {error}") from error
    width = settings.get("outputs", classes)
    if layers != settings["layers"] or width not in (max(k, 2) for k in heads.values()):
        expected, got = (
            ", ".join(f"{layer} ({d})" for layer, d in {**of, "output": k}.items())
            for of, k in ((settings["layers"], width), (layers, max(heads.values())))
        )
        raise InputError(
            f"the network is not the one that was audited: expected the layers {expected}; got {got}"
        )
    if hash_network(reader.model) != settings["weights"]:  # type: ignore[arg-type]
        raise InputError(
            "the network is not the one that was audited: it has the same layers and other weights. Load the "
            "weights that it had then, or audit this one"
        )


def _checksum(packed: Any, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(packed, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
