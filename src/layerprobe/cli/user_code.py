"""Load objects that the user names as ``pkg.mod:name``; this runs the code of the user."""

import ast
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerprobe.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from layerprobe.utils.registry import Registry

NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
REFERENCE = re.compile(rf"({NAME}):({NAME})\s*(?:\((.*)\))?", re.DOTALL)
OURS = Path(__file__).resolve().parents[1]
STDLIB = Path(sysconfig.get_paths()["stdlib"]).resolve()
PLACES: set[Path] = set()
"""Files and folders of the modules that the user named."""


def is_reference(text: str) -> bool:
    """Return whether a text is ``pkg.mod:name`` or ``pkg.mod:name(...)``; otherwise it is a path."""
    return REFERENCE.fullmatch(text.strip()) is not None


def load_object(reference: str, *, call: bool = False) -> Any:
    """Import ``pkg.mod:name``, and call it if it has arguments, as ``pkg.mod:name(width=64)``.

    Modules in the current directory are found first.

    Parameters
    ----------
    reference : str
        Its arguments are literals of Python.
    call : bool
        Call a class or function also without arguments; a model is no function.

    Raises
    ------
    InputError
        If the module or the object does not exist. Errors of the code itself pass through; see `user_error`.
    """
    parts = REFERENCE.fullmatch(reference.strip())
    if not parts:
        raise InputError(f"expected pkg.mod:name, as in models.cnn:build, got {reference!r}")
    module_name, name, given = parts.groups()
    args, kwargs = _arguments(given or "")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    _remember(module_name.partition(".")[0])
    try:
        value: Any = importlib.import_module(module_name)
        for part in name.split("."):
            if not hasattr(value, part):
                hint = did_you_mean(part, dir(value))
                raise InputError(f"{reference}: {module_name} has no {part!r}.{hint}")
            value = getattr(value, part)
        is_function = callable(value) and not is_model(value)
        if given is not None and not is_function:
            raise InputError(f"{reference}: {name} takes no arguments, it is a {type(value).__name__}")
        if given is None and not (call and is_function):
            return value
        try:
            return value(*args, **kwargs)
        except TypeError as error:
            if user_error(error):
                raise
            raise InputError(f"{reference} cannot be called: {error}") from error  # with these arguments
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, but one of its own imports is missing
        raise InputError(
            f"{reference}: no module {error.name!r} in {here} or among the installed packages"
        ) from error
    except SystemExit as error:
        raise InputError(f"{reference}: the code ended the program, SystemExit({error.code!r})") from error


def names_in(registry: "Registry[Any]", references: Iterable[str], call: bool = False) -> tuple[str, ...]:
    """Return names of a registry, those of ``pkg.mod:name`` after registering the object there.

    Parameters
    ----------
    registry : Registry
    references : iterable of str
        Names, or references to objects.
    call : bool
        Call a function that returns the object.

    Raises
    ------
    InputError
        As for `load_object`, or if the object is of another kind.
    """
    names = []
    for text in references:
        if is_reference(text):
            value = load_object(text, call=call)
            module, _, name = text.strip().partition("(")[0].partition(":")
            known = next((key for key, one in registry.items() if one is value), None)  # by its own module
            own = None if isinstance(value, type) else getattr(value, "name", None)  # of a pair
            text = known or (own if isinstance(own, str) else name.rpartition(".")[2])
            if known is None:
                registry.register(text, value, module)
        names.append(text)
    return tuple(names)


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the literals between the brackets of a call."""
    try:
        call = ast.parse(f"f({text}\n)", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError("no call")
        if not all(keyword.arg for keyword in call.keywords):
            raise ValueError("** is not possible")
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        return [ast.literal_eval(value) for value in call.args], kwargs
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise InputError(
            f"expected literals as arguments, as in models.cnn:build(10, width=64), got ({text}): {error}"
        ) from error


def _remember(module_name: str) -> None:
    """Note where the code of a module lies."""
    spec = importlib.util.find_spec(module_name) if module_name not in sys.modules else None
    spec = spec or getattr(sys.modules.get(module_name), "__spec__", None)
    if spec and spec.submodule_search_locations:
        PLACES.update(Path(place).resolve() for place in spec.submodule_search_locations)
    elif spec and spec.origin:
        file = Path(spec.origin).resolve()
        PLACES.add(file if "site-packages" in file.parts else file.parent)


def user_error(error: BaseException) -> str:
    """Return an error of the user's code or model in one line, with its own place; empty for other errors."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"SyntaxError: {error.msg} ({_short(error.filename)}, line {error.lineno})"
    if place := user_line(error):
        return f"{said} {place}"
    if not PLACES or "torch" not in sys.modules:
        return ""
    selves: list[Any] = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [value for value in selves if is_model(value)]
    if not modules:
        return ""
    layer = next((name for name, module in modules[0].named_modules() if module is modules[-1]), "")
    return f"{said} (in the forward pass of the model, in {layer or 'its'} {type(modules[-1]).__name__})"


def user_line(error: BaseException | None) -> str:
    """Return the last line of the user's code that an error passed, in parentheses; empty without one."""
    frames = traceback.extract_tb(error.__traceback__) if error else []
    own = [frame for frame in frames if _is_users(frame.filename)]
    if not own:
        return ""
    return f"({_short(own[-1].filename)}, line {own[-1].lineno}, in {own[-1].name}: {own[-1].line})"


def _is_users(file: str) -> bool:
    path = Path(file).resolve()
    in_library = path.is_relative_to(STDLIB) and "site-packages" not in path.parts
    if file.startswith("<") or path.is_relative_to(OURS) or in_library:
        return False
    inner = (path.relative_to(place).parts for place in PLACES if path.is_relative_to(place))
    return any("site-packages" not in parts for parts in inner)


def _short(file: str) -> str:
    path, here = Path(file).resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def is_model(value: Any) -> bool:
    """Return whether an object is a torch.nn.Module."""
    from torch import nn

    return isinstance(value, nn.Module)
