"""Weights of networks whose layers have other names."""

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from layerprobe.errors import InputError
from layerprobe.networks.weights import PREFIXES


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
        ``model.published_names``, the names of the paper's published code. In a `CNN` they map ``linear1`` to
        ``linear3`` to ``fcs.0`` to ``fcs.2``, and ``head`` to ``fc3``.

    Raises
    ------
    InputError
        If weights are missing, unexpected, of another shape or not finite.
    """
    if names is None:
        names = getattr(model, "published_names", {})

    def other_name(key: str) -> str:
        layer, weight = key.rsplit(".", 1)
        return f"{names.get(layer, layer)}.{weight}"

    own = model.state_dict()
    wanted = {other_name(key): key for key in own}
    faults = {
        "missing": [key for key in wanted if key not in state_dict],
        "unexpected": [key for key in state_dict if key not in wanted],
        "of another shape": [
            f"{key} {tuple(state_dict[key].shape)} for {tuple(own[wanted[key]].shape)}"
            for key in wanted
            if key in state_dict and state_dict[key].shape != own[wanted[key]].shape
        ],
    }
    faults["not finite"] = [
        key for key in wanted if key in state_dict and not torch.isfinite(state_dict[key]).all()
    ]
    if any(faults.values()):
        found = "; ".join(f"{fault}: {', '.join(keys)}" for fault, keys in faults.items() if keys)
        raise InputError(
            f"these are not the weights of this {type(model).__name__}; {found}. Pass weights of the same "
            "architecture, and names={layer of the model: layer of the weights} where names differ"
        )
    model.load_state_dict({key: state_dict[key_there] for key_there, key in wanted.items()})


def without_prefix(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the prefixes that wrappers of networks put before all names, as "module.".

    Parameters
    ----------
    model : nn.Module
        The network without a wrapper.
    state_dict : mapping of str to Tensor
    """
    weights, own = dict(state_dict), set(model.state_dict())
    while weights and not own <= weights.keys():
        prefix = next((text for text in PREFIXES if all(key.startswith(text) for key in weights)), "")
        if not prefix:
            break
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def names_by_shape(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Return the layer names of a network to those of weights, if each layer has shapes of its own.

    Parameters
    ----------
    model : nn.Module
    state_dict : mapping of str to Tensor

    Returns
    -------
    dict of str to str, or None
        None where two layers have equal shapes, as in a `CNN`, or the shapes differ: then only names can tell
        the layers apart.
    """
    own, others = _shapes(model.state_dict()), _shapes(state_dict)
    unique = max(Counter(own.values()).values()) == 1
    if not unique or sorted(map(sorted, own.values())) != sorted(map(sorted, others.values())):
        return None
    by_shape = {shapes: layer for layer, shapes in others.items()}
    return {layer: by_shape[shapes] for layer, shapes in own.items()}


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, frozenset[tuple[str, tuple[int, ...]]]]:
    """Return the names and shapes of the tensors of each layer."""
    layers: dict[str, set[tuple[str, tuple[int, ...]]]] = {}
    for key, value in weights.items():
        layer, _, name = key.rpartition(".")
        layers.setdefault(layer, set()).add((name, tuple(value.shape)))
    return {layer: frozenset(shapes) for layer, shapes in layers.items()}
