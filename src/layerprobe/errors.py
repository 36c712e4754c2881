"""Exceptions and warnings. Each message states what was expected, what was given, and what to do."""

import contextlib
import difflib
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

_INNER = (str(Path(__file__).parent), contextlib.__file__, functools.__file__)


class LayerprobeError(Exception):
    """Base class of the errors that layerprobe raises."""


class InputError(LayerprobeError, ValueError):
    """Raised for an invalid argument, array or label."""


class UnknownNameError(InputError):
    """Raised for a name that nothing is registered by, or whose package cannot be imported."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a name that is in no registry, with the most similar name that is.

    Parameters
    ----------
    kind : str
        What the names stand for, as ``"pair"``.
    name : object
        The name that was given.
    known : iterable of str
        The names that exist.
    """
    names = list(known)
    hint = did_you_mean(str(name), names)
    return UnknownNameError(f"There is no {kind} {name!r}.{hint} Available: {', '.join(names)}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question for the most similar of the known names; empty if none is similar.

    Parameters
    ----------
    name : str
    known : iterable of str
    """
    similar = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {similar[0]}?" if similar else ""


class MissingRowsError(InputError):
    """Raised for a table or figure without rows to show. The message names the experiments or runs to add."""


class LayerError(LayerprobeError, LookupError):
    """Raised for a layer that the model does not have, or that cannot be captured."""


class DataError(LayerprobeError, OSError):
    """Raised for a file or data set that is missing, incomplete or different from the published one."""


class ExperimentError(LayerprobeError, RuntimeError):
    """Raised for an experiment that is not possible on a run."""


class ProcessError(LayerprobeError, RuntimeError):
    """Raised if another process of the same job ended, or did not answer in time."""


class LayerprobeWarning(UserWarning):
    """Base class of the warnings of layerprobe."""


class DegenerateWarning(LayerprobeWarning):
    """The result is defined but not informative, for example for an empty class or saturated subspaces."""


def warn(message: str, category: type[Warning] = LayerprobeWarning) -> None:
    """Warn at the line of the user's code that called the package.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def renamed(module: str, names: Mapping[str, Any]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module whose objects keep their old names, with a warning.

    Parameters
    ----------
    module : str
        The ``__name__`` of the module.
    names : mapping of str to object
        Objects by their old names.
    """

    def getattribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(f"{module}.{name} is deprecated: use {names[name].__name__}.", DeprecationWarning)
        return names[name]

    return getattribute
