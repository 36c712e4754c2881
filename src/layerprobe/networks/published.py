"""Weights of networks whose layers have other names."""

from collections.abc import Mapping

from torch import Tensor, nn

from layerprobe.errors import InputError


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
        If weights are missing, unexpected or of another shape.
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
    if any(faults.values()):
        found = "; ".join(f"{fault}: {', '.join(keys)}" for fault, keys in faults.items() if keys)
        raise InputError(
            f"these are not the weights of this {type(model).__name__}; {found}. Pass weights of the same "
            "architecture, and names={layer of the model: layer of the weights} where names differ"
        )
    model.load_state_dict({key: state_dict[key_there] for key_there, key in wanted.items()})
