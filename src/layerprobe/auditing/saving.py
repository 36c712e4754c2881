"""An audit in one safetensors file, without the network and the rows; reading it can run no code."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from layerprobe.auditing.dataset.fingerprints import hash_network
from layerprobe.auditing.features import Reader
from layerprobe.auditing.result import Audit
from layerprobe.auditing.serialisation import Absent, Packer, unpack
from layerprobe.errors import DataError, InputError, LayerError
from layerprobe.layers.pooling import Pool
from layerprobe.layers.views import VIEWS, View, resolve_views
from layerprobe.utils.files import read_tensors, write_tensors

__all__ = ["load", "save"]

KIND = "layerprobe.audit.2"
FIELDS = ("decided", "order", "given", "index", "named", "policy", "verdict_", "settings", "cost", "reader")


def save(audit: Audit, path: str | os.PathLike[str]) -> None:
    """Write all that an audit found, and its fitted decoder.

    The network, the rows and functions of the user's (views, pooling, `inputs`) are no part of it.

    Parameters
    ----------
    audit : Audit
    path : path
        Of a safetensors file; one that is there is replaced at once, or not at all.

    Raises
    ------
    InputError
        If the decoder has probes, or the classes have names, that no file can hold. Nothing is written.
    DataError
        If the file cannot be written.
    """
    _check_probes(audit)
    state = {name: getattr(audit, name) for name in FIELDS}
    state["settings"] = {
        name: Absent(_name(value)) if callable(value) else value for name, value in audit.settings.items()
    }
    if audit.reader is not None:
        state["reader"] = _without_functions(audit.reader)
    packer = Packer()
    packed = packer.pack(state)
    header = {"audit": packed, "sha256": _checksum(packed, packer.tensors)}
    write_tensors(path, packer.tensors, KIND, header)


def load(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    views: str | View | Iterable[str | View] | Mapping[str, View] = (),
    pool: Pool = None,
    inputs: Any = None,
) -> Audit:
    """Read an audit that `save` wrote.

    Parameters
    ----------
    path : path
    model : nn.Module, optional
        The network that was audited, needed to predict, and for nothing else.
    views, pool, inputs : optional
        As for :func:`layerprobe.audit`: those that were functions of the user's, which no file holds.

    Returns
    -------
    Audit
        Equal to the saved one in all its numbers, but without rows: it cannot show or repair them.

    Raises
    ------
    DataError
        If the file is missing, damaged or of another kind.
    InputError
        If functions are missing or others than were used, or the network has other layers or weights.
    """
    tensors, header = read_tensors(path, KIND)
    try:
        if header["sha256"] != _checksum(header["audit"], tensors):
            raise DataError(f"{path}: damaged, its content is not what was written; save the audit again.")
        audit = Audit(**unpack(header["audit"], tensors))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise DataError(f"{path}: an audit that this version cannot read ({error!r}).") from error
    given = {"views": resolve_views(views), "pool": pool, "inputs": inputs}
    if model is None:
        if needless := [name for name, value in given.items() if value]:
            raise InputError(f"{needless[0]}= goes with the network, which predicts: pass model= as well")
        return audit
    if audit.reader is None:
        raise InputError("this is an audit of features: it predicts from features, without a network")
    if not isinstance(model, nn.Module):
        raise InputError(f"expected the network as an nn.Module, got {type(model).__name__}")
    again = _given_again(audit.reader, audit.settings["inputs"], given)
    reader = replace(audit.reader, model=model, views=again["views"], pool=again["pool"])
    _check_layers(reader, audit.settings["layers"], len(audit.classes))
    if hash_network(model) != audit.settings["weights"]:
        raise InputError(
            "the network is not the one that was audited: it has the same layers and other weights. Load the "
            "weights that it had then, or audit this one"
        )
    return replace(audit, reader=reader, settings={**audit.settings, "inputs": again["inputs"]})


def _check_probes(audit: Audit) -> None:
    """Refuse to save where a member of the decoder cannot be."""
    refused = []
    for member in audit.decided.decoder.members:
        try:
            Packer().pack(member.probe)
        except InputError as error:
            refused.append(f"{member.candidate.probe!r} on layer {member.candidate.layer!r}, {error}")
    if refused:
        raise InputError(
            f"the decoder has probes that no file can hold: {'; '.join(refused)}. Audit with probes= of "
            "layerprobe alone to save it"
        )


def _without_functions(reader: Reader) -> Reader:
    views: dict[str, Any] = {
        name: view if view in VIEWS.values() else Absent(name) for name, view in reader.views.items()
    }
    pool: Any = reader.pool
    if isinstance(pool, Mapping):
        pool = {pattern: Absent(_name(one)) if callable(one) else one for pattern, one in pool.items()}
    elif callable(pool):
        pool = Absent(_name(pool))
    return replace(reader, model=None, device=None, views=views, pool=pool)


def _given_again(reader: Reader, inputs: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return views, pool and inputs as they were, with the user's functions in their places."""
    stored = {"views": reader.views, "pool": reader.pool, "inputs": inputs}
    given = {**given, "views": {**reader.views, **given["views"]}}
    missing = []
    for name, value in stored.items():
        if given[name] is None:
            given[name] = value
        if not _fits(value, given[name]):
            was = list(value) if isinstance(value, Mapping) else value
            raise InputError(f"{name}= is not what the audit was made with, {was}")
        missing += [f"{name}= ({function})" for function in _absent(given[name])]
    if missing:
        raise InputError(
            f"the audit was made with functions that no file holds; give again {', '.join(missing)}"
        )
    return given


def _fits(stored: Any, given: Any) -> bool:
    if isinstance(stored, Absent):
        return callable(given) or given is stored
    if isinstance(stored, Mapping) and isinstance(given, Mapping) and list(stored) == list(given):
        return all(_fits(value, given[key]) for key, value in stored.items())
    return stored == given


def _absent(value: Any) -> list[str]:
    parts = value.values() if isinstance(value, Mapping) else [value]
    return [part.name for part in parts if isinstance(part, Absent)]


def _check_layers(reader: Reader, layers: Mapping[str, int], outputs: int) -> None:
    """Demand that a network has the layers that were audited, by an input that holds nothing."""
    try:
        found = reader.dimensions_of(reader.blank)
    except (LayerError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"the network is not the one that was audited: {error}") from error
    if found != (layers, outputs):
        was, now = (
            ", ".join(f"{layer} ({d})" for layer, d in {**of, "output": K}.items())
            for of, K in ((layers, outputs), found)
        )
        raise InputError(f"the network is not the one that was audited: expected the layers {was}; got {now}")


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _checksum(packed: Any, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(packed, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
