"""Load objects that the user names as ``pkg.mod:name``; this runs the code of the user."""

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


def is_reference(text: str) -> bool:
    """Return whether a text has the form ``pkg.mod:name``; otherwise it is a path."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", text) is not None


def load_object(reference: str) -> Any:
    """Import ``pkg.mod:name``; modules in the current directory are found first.

    Raises
    ------
    InputError
        If the module or the object does not exist. Errors that the module raises pass through.
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
            raise  # the module exists, but one of its own imports is missing
        raise InputError(
            f"{reference}: no module {error.name!r} in {here} or among the installed packages"
        ) from error
    for part in name.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, dir(value), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{reference}: {module_name} has no {part!r}{hint}")
        value = getattr(value, part)
    return value


def load_model(reference: str, weights: Path | None, device: str | None) -> "nn.Module":
    """Return a network on its device, with its weights.

    Parameters
    ----------
    reference : str
        ``pkg.mod:name`` of an nn.Module, or of a class or function that returns one without arguments.
    weights : path, optional
        A safetensors file with the state_dict: all parameters and buffers, no others.
    device : str, optional
        Name of a torch device.

    Raises
    ------
    InputError
        If the object is not an nn.Module, or the device cannot be used.
    DataError
        If the weights cannot be read, or belong to another network.
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
            raise DataError(f"{weights} does not fit the network: {' '.join(str(error).split())}") from error
    if device is None:
        return model
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # unknown, or not supported by this build of torch
        raise InputError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from error
