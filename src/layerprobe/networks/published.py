"""Weights of networks whose layers have other names."""

from collections.abc import Mapping

from torch import Tensor, nn

from layerprobe.errors import InputError
from layerprobe.networks.weights import PREFIXES, misfits


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
    faults = misfits({other_name(key): value for key, value in own.items()}, state_dict)
    faults |= {"not finite": [key for key, value in state_dict.items() if not value.isfinite().all()]}
    if any(faults.values()):
        found = "; ".join(f"{fault}: {', '.join(keys)}" for fault, keys in faults.items() if keys)
        raise InputError(
            f"these are not the weights of this {type(model).__name__}; {found}. Pass weights of the same "
            "architecture, and names={layer of the model: layer of the weights} where names differ"
        )
    model.load_state_dict({key: state_dict[other_name(key)] for key in own})


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
        layer, _, name = key.rpartition(".")
        layers[layer] = layers.get(layer, frozenset()) | {(name, tuple(value.shape))}
    return layers
