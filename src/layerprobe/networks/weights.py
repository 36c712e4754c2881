"""Read weights from safetensors files and torch checkpoints, also if layer names differ."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerprobe.errors import DataError, InputError

KEYS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")
"""Keys of a checkpoint that may hold its state dict, in the order in which they are tried."""

PREFIXES = ("_orig_mod.", "module.", "model.", "network.", "net.")
"""Prefixes that torch.compile, data-parallel wrappers and training frameworks put before names."""

# Batch normalisation counts its batches, and uses the count in training without momentum only. Old and
# converted files lack it; the network then keeps its own.
COUNTER = "num_batches_tracked"


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the state dict in a file of weights; no code of the file runs.

    Parameters
    ----------
    path : path
        A safetensors file, or a file of ``torch.save`` (.pt, .pth, .ckpt, .bin) that holds a state dict or a
        checkpoint with a state dict under one of `KEYS`, as those of Lightning do.

    Raises
    ------
    DataError
        If the file is missing or damaged, holds no state dict, or holds objects that only its own code can
        make. The message then has the line that converts it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist: expected a file of weights.")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" or path.suffix == ".safetensors":
        import safetensors
        import safetensors.torch

        try:
            return safetensors.torch.load_file(path)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise DataError(f"{path} cannot be read as a safetensors file: {error}.") from error
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise any error of the unpickler
        if "nsupported global" in str(error) or "nsupported class" in str(error):
            raise DataError(
                f"{path} holds Python objects beside tensors, and reading them would run code from the file. "
                'If you trust it, convert it once: python -c "import torch; '
                f"saved = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
                "torch.save(saved['state_dict'] if isinstance(saved, dict) else saved.state_dict(), "
                f'{str(path.with_suffix(".weights.pt"))!r})"'
            ) from error
        reason = f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")
        raise DataError(
            f"{path} cannot be read as a file of torch.save, so it is damaged or of another kind "
            f"({reason}); get it again, or write it by torch.save(model.state_dict(), path)"
        ) from error
    found = _state_dict(saved)
    if found is None:
        kind = type(saved).__name__
        if isinstance(saved, Mapping):
            kind = f"the keys {', '.join(map(repr, list(saved)[:8]))}" if saved else "an empty mapping"
        raise DataError(
            f"{path}: expected a state dict, or one under a key {', '.join(KEYS)}; got {kind}. "
            "torch.save(model.state_dict(), path) writes one."
        )
    return found


def load_state(
    model: nn.Module,
    weights: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    strip_prefix: str | None = None,
) -> nn.Module:
    """Copy the weights of a file into a network.

    Parameters
    ----------
    model : nn.Module
        Changed in place; it stays as it is if an error is raised.
    weights : path or mapping of str to Tensor
        A file as for `read_state_dict`, or a state dict.
    strip_prefix : str, optional
        Prefix to remove from the names, such as "model."; names without it are left out. Without it, names
        must be those of the network; the message of the error names a prefix that would fit.

    Returns
    -------
    nn.Module
        `model`.

    Raises
    ------
    InputError
        If names or shapes differ from those of the network.
    DataError
        As for `read_state_dict`.

    Examples
    --------
    >>> wrapped = {f"model.{name}": value for name, value in nn.Linear(2, 1).state_dict().items()}
    >>> load_state(nn.Linear(2, 1), wrapped, strip_prefix="model.")
    Linear(in_features=2, out_features=1, bias=True)
    """
    place = f"{weights}: " if isinstance(weights, str | os.PathLike) else ""
    given = dict(weights) if isinstance(weights, Mapping) else read_state_dict(weights)
    if strip_prefix:
        given = {
            name[len(strip_prefix) :]: value for name, value in given.items() if name.startswith(strip_prefix)
        }
        if not given:
            raise InputError(f"{place}no name begins with the prefix {strip_prefix!r}")
    own = model.state_dict()
    tied = _tied(own)
    given |= {name: given[other] for name, other in tied.items() if name not in given and other in given}
    faults = _misfits(own, given)
    if any(faults.values()):
        prefix = "" if strip_prefix else _fitting_prefix(given, own)
        advice = (
            f"all names begin with {prefix!r}: remove it by strip_prefix={prefix!r}"
            if prefix
            else "give weights of the same architecture"
        )
        raise InputError(f"{place}the weights do not fit {type(model).__name__}; {_listed(faults)}; {advice}")
    model.load_state_dict({**own, **given})
    return model


def _misfits(own: Mapping[str, Any], given: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the names of weights that do not fit the state dict of a network, by the kind of fault."""
    return {
        "missing": [name for name in own if name not in given and not name.endswith(COUNTER)],
        "unexpected": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(value.shape)}"
            for name, value in own.items()
            if name in given and isinstance(value, Tensor) and given[name].shape != value.shape
        ],
        "not real numbers": [
            f"{name} {given[name].dtype}"
            for name, value in own.items()
            if name in given and isinstance(value, Tensor) and value.is_floating_point()
            if not given[name].is_floating_point()
        ],
    }


def _listed(faults: Mapping[str, list[str]]) -> str:
    return "; ".join(
        f"{fault}: {', '.join(names[:5])}" + f" and {len(names) - 5} more" * (len(names) > 5)
        for fault, names in faults.items()
        if names
    )


def _state_dict(saved: Any, depth: int = 2) -> dict[str, Tensor] | None:
    """Return the mapping of names to tensors in a loaded object, or None."""
    if isinstance(saved, nn.Module) or not isinstance(saved, Mapping) or not saved:
        return None
    if all(isinstance(name, str) for name in saved) and all(isinstance(v, Tensor) for v in saved.values()):
        return dict(saved)
    for key in KEYS if depth else ():
        if key in saved and (found := _state_dict(saved[key], depth - 1)) is not None:
            return found
    return None


def _fitting_prefix(given: Mapping[str, Tensor], own: Mapping[str, Any]) -> str:
    """Return the prefix that makes names of the file those of the network, or an empty text."""
    name = next(iter(own), "")
    prefixes = (other.removesuffix(name) for other in given if other.endswith(f".{name}"))
    return next((prefix for prefix in prefixes if all(prefix + key in given for key in own)), "")


def _tied(own: Mapping[str, Any]) -> dict[str, str]:
    """Return names of tensors that share memory with one of another name; files may hold it once."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, value in own.items():
        if isinstance(value, Tensor) and value.numel():
            other = first.setdefault(value.data_ptr(), name)
            tied |= {name: other, other: name} if other != name and own[other].shape == value.shape else {}
    return tied


# Weights of networks whose layers have other names.


def load_published(
    model: nn.Module, state_dict: Mapping[str, Tensor], names: Mapping[str, str] | None = None
) -> None:
    """Copy weights into a network of the same architecture with other layer names.

    Parameters
    ----------
    model : nn.Module
        Network to change in place. It stays as it is if an error is raised.
    state_dict : mapping of str to Tensor
        ``state_dict`` of the other network.
    names : mapping of str to str, optional
        Layer names of `model` to those of `state_dict`; layers that are not listed have equal names. Default:
        equal names, or those of the paper's published code if more layers are found by them.

    Raises
    ------
    InputError
        If weights are missing, unexpected, of another shape, integer, complex or not finite, or `names` has a
        layer that the network has not, or gives two layers the same weights.
    """
    if names is None:
        names = fitting_names(model, state_dict)

    def other_name(key: str) -> str:
        layer, _, weight = key.rpartition(".")
        return ".".join(filter(None, (names.get(layer, layer), weight)))

    own = model.state_dict()
    tied, first = _tied(own), dict[str, str]()
    layers = layers_with_weights(own)
    unused = getattr(model, "published_unused", ())
    read = {names.get(layer, layer) for layer in layers}
    state_dict = {
        key: value
        for key, value in state_dict.items()
        if key.rpartition(".")[0] in read or key.partition(".")[0] not in unused
    }
    faults = _misfits({other_name(key): value for key, value in own.items()}, state_dict)
    faults |= {
        "no layer of the model": [layer for layer in names if layer not in layers],
        "read twice, for": [
            f"{other} and {key}"
            for key in own
            if (other := first.setdefault(other_name(key), key)) not in (key, tied.get(key))
        ],
    }
    check_finite(state_dict)
    if any(faults.values()):
        raise InputError(
            f"these are not the weights of this {type(model).__name__}; {_listed(faults)}. Pass weights of "
            "the same architecture, and the names of layers where they differ, {layer of the model: layer of "
            "the weights}"
        )
    model.load_state_dict({key: state_dict.get(other_name(key), value) for key, value in own.items()})


def check_finite(state_dict: Mapping[str, Tensor], source: str = "the weights") -> None:
    """Raise an InputError if weights are not finite in float32: other names do not mend them.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
    source : str
        The start of the message.
    """
    wrong = [
        key
        for key, value in state_dict.items()
        if not (value.float() if value.is_floating_point() else value).isfinite().all()
    ]
    if wrong:
        raise InputError(
            f"{source}: {_listed({'not finite in float32': wrong})}; "
            "the network diverged, or the file is damaged"
        )


def without_prefix(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the prefixes that wrappers of networks put before all names, as "module.".

    Parameters
    ----------
    model : nn.Module
        The network without a wrapper.
    state_dict : mapping of str to Tensor
    """
    weights, own = dict(state_dict), {key for key in model.state_dict() if not key.endswith(COUNTER)}
    while weights and not own <= weights.keys():
        prefix = next((text for text in PREFIXES if all(key.startswith(text) for key in weights)), "")
        if not prefix:
            break
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def layers_with_weights(state_dict: Mapping[str, Tensor]) -> dict[str, None]:
    """Return the names of the layers in a state dict, in order."""
    return dict.fromkeys(key.rpartition(".")[0] for key in state_dict)


def fitting_names(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the layer names of a network to those of weights, where they differ.

    The names of the paper's published code, ``model.published_names``, are taken if more layers are found by
    them than by equal names. In a `CNN` they map ``linear1`` to ``linear3`` to ``fcs.0`` to ``fcs.2``, and
    ``head`` to ``fc3``.

    Parameters
    ----------
    model : nn.Module
    state_dict : mapping of str to Tensor
    """
    layers, there = layers_with_weights(model.state_dict()), layers_with_weights(state_dict)
    published: dict[str, str] = getattr(model, "published_names", {})
    return max({}, published, key=lambda names: sum(names.get(layer, layer) in there for layer in layers))


def names_by_shape(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Return the layer names of a network to those of weights, or None where shapes do not decide.

    Where two layers have equal shapes, as in a `CNN`, only names can tell them apart.

    Parameters
    ----------
    model : nn.Module
    state_dict : mapping of str to Tensor
    """
    own, others = _shapes(model.state_dict()), _shapes(state_dict)
    by_shape = {shapes: layer for layer, shapes in others.items()}
    if not len(own) == len(set(own.values())) == len(others) or set(own.values()) != by_shape.keys():
        return None
    return {layer: by_shape[shapes] for layer, shapes in own.items()}


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, frozenset]:
    """Return the names and shapes of the tensors of each layer."""
    layers: dict[str, frozenset] = {}
    for key, value in weights.items():
        if key.endswith(COUNTER):
            continue
        layer, _, name = key.rpartition(".")
        layers[layer] = layers.get(layer, frozenset()) | {(name, tuple(value.shape))}
    return layers
