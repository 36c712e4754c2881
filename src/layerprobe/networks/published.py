"""Weights that were trained elsewhere, under other names of layers."""

from collections.abc import Mapping

from torch import Tensor, nn

from layerprobe.errors import InputError

__all__ = ["load_published"]


def load_published(
    model: nn.Module, state_dict: Mapping[str, Tensor], names: Mapping[str, str] | None = None
) -> None:
    """Copy weights into a network of the same architecture whose layers go by other names.

    Parameters
    ----------
    model : nn.Module
        Changed in place, or not at all.
    state_dict : mapping of str to Tensor
        The other network's ``state_dict``.
    names : mapping of str to str, optional
        This network's layers and what they are called there; the others have the same name in both.
        Default: those of the published code, ``model.published_names``: a `CNN`'s ``linear1`` to
        ``linear3`` are ``fcs.0`` to ``fcs.2`` there, its ``head`` is ``fc3``; ``conv1`` to ``conv6`` agree.

    Raises
    ------
    InputError
        If weights are missing, left over or of another shape.
    """
    if names is None:
        names = getattr(model, "published_names", {})

    def there(key: str) -> str:
        layer, weight = key.rsplit(".", 1)
        return f"{names.get(layer, layer)}.{weight}"

    own = model.state_dict()
    wanted = {there(key): key for key in own}
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
            f"these are not the weights of this {type(model).__name__}; {found}. Give those of the same "
            "architecture, and names={layer here: its name there} for layers that are called otherwise"
        )
    model.load_state_dict({key: state_dict[key_there] for key_there, key in wanted.items()})
