"""What a user names on the command line as ``pkg.mod:name``: importing it runs her code."""

import difflib
import importlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerprobe.errors import DataError, InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["is_reference", "load_model", "load_object"]


def is_reference(text: str) -> bool:
    """Tell ``pkg.mod:name`` from a path."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", text) is not None


def load_object(reference: str) -> Any:
    """Import ``pkg.mod:name``; modules in the current directory are found first.

    Raises
    ------
    InputError
        If it does not name something that is there. What the module itself raises goes through.
    """
    if not is_reference(reference):
        raise InputError(f"expected pkg.mod:name, as in models.cnn:build, got {reference!r}")
    module_name, _, name = reference.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise InputError(
            f"{reference}: there is no module {error.name!r}, neither in {here} nor installed"
        ) from error
    for part in name.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, dir(value), n=1)
            raise InputError(
                f"{reference}: {module_name} has no {part!r}" + (f"; near it is {near[0]!r}" if near else "")
            )
        value = getattr(value, part)
    return value


def load_model(reference: str, weights: Path | None, device: str | None) -> "nn.Module":
    """Make a network and load its weights, which must be those of every parameter and buffer.

    Parameters
    ----------
    reference : str
        ``pkg.mod:name`` of an nn.Module, or of a class or function that makes one when called with nothing.
    weights : path, optional
        A safetensors file of its state_dict.
    device : str, optional
        Where it goes.

    Raises
    ------
    InputError
        If it is no nn.Module, or there is no such device.
    DataError
        If the weights cannot be read or are those of another network.
    """
    import safetensors
    import safetensors.torch
    import torch
    from torch import nn

    made = load_object(reference)
    model = made if isinstance(made, nn.Module) or not callable(made) else made()
    if not isinstance(model, nn.Module):
        raise InputError(f"{reference}: expected a torch.nn.Module, got {type(model).__name__}")
    if weights is not None:
        try:
            safetensors.torch.load_model(model, weights, strict=True)
        except (OSError, safetensors.SafetensorError) as error:
            raise DataError(f"{weights} cannot be read as a safetensors file: {error}.") from error
        except RuntimeError as error:
            raise DataError(
                f"{weights} are the weights of another network: {' '.join(str(error).split())}"
            ) from error
    if device is None:
        return model
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # unknown, or torch is built without it
        raise InputError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
