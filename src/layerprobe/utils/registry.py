"""Registries of probes, data sets and others by name: ours, those of users and of installed packages."""

import importlib
import importlib.metadata
import inspect
import os
import sys
import warnings
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from layerprobe.errors import InputError, LayerprobeWarning, UnknownNameError, unknown_name

Value = TypeVar("Value")


class Registry(UserDict[str, Value]):
    """Values by name: those of layerprobe, those that `register` adds, and entry points.

    An entry point is imported when its name is first looked up, and never by iteration. So a package that
    cannot be imported does not disturb commands that do not name it.

    Parameters
    ----------
    kind : str
        Noun for messages, as "probe".
    group : str
        Group of the entry points, as "layerprobe.probes".
    check : callable
        Called with a name and a value from outside; return the value to keep, or raise InputError.
    """

    every: ClassVar[dict[str, "Registry[Any]"]] = {}

    def __init__(self, kind: str, group: str, check: Callable[[str, Any], Value]) -> None:
        super().__init__()
        self.kind, self.group, self._check = kind, group, check
        self._own: set[str] = set()
        self.sources: set[str] = set()  # the modules that add our own values
        self._modules: dict[str, str] = {}  # by the names of values from outside
        self._origins: dict[str, dict[str, str]] = {}
        self.every[group] = self

    def own(self, values: Mapping[str, Value]) -> None:
        """Add values of layerprobe itself. No other value can be registered by their names."""
        self.data |= values
        self._own |= values.keys()
        self.sources.add(calling_module())

    def register(self, name: str, value: Any, module: str) -> Value:
        """Add a value, in place of an earlier one that was registered by this name.

        Raises InputError if the name is no text or belongs to layerprobe, or the value is of another kind.

        Parameters
        ----------
        name : str
        value : object
        module : str
            The module that defines it, for the records of runs.
        """
        if not isinstance(name, str) or not name or set(name) & set("/\\:") or name[0] == ".":
            raise InputError(
                f"expected the name of a {self.kind} without '/', '\\' and ':', as it is part of file names; "
                f"got {name!r}"
            )
        if name in self._own:
            raise InputError(f"layerprobe has a {self.kind} {name!r} of its own; choose another name")
        self[name] = kept = self._check(name, value)
        self._modules[name] = module
        return kept

    def __missing__(self, name: str) -> Value:
        """Import the value of an entry point; raise UnknownNameError if there is none, or it cannot be."""
        if name not in self._points:
            raise unknown_name(self.kind, name, [*self, *self._points])
        point = self._points[name]
        try:
            value = self.register(name, point.load(), point.module)
        except Exception as error:  # the code of the package can raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": ")
            raise UnknownNameError(
                f"the {self.kind} {name!r} of {_package(point)} cannot be used: {reason}; repair or "
                f"remove this package, whose entry point of {self.group} is {point.value}"
            ) from error
        if point.dist:
            package = {"package": point.dist.name, "version": point.dist.version}
            self._origins[name] = {"module": point.module, **package}
        return value

    def names(self) -> list[str]:
        """Return all names that can be looked up; a warning names each entry point that cannot."""
        for name in [name for name in self._points if name not in self.data]:
            try:
                self.__missing__(name)
            except UnknownNameError as error:
                del self._points[name]
                warnings.warn(str(error), LayerprobeWarning, stacklevel=2)
        return list(self)

    def origin(self, name: str) -> dict[str, str]:
        """Return the module, package and version of a value from outside; empty for one of layerprobe."""
        if name not in self._origins and name in self._modules:
            module = self._modules[name]
            self._origins[name] = {"module": module, **_version(module)}
        return self._origins.get(name, {})

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        points: dict[str, EntryPoint] = {}
        for point in importlib.metadata.entry_points(group=self.group):
            if point.name in self._own or point.name in points:
                other = "layerprobe" if point.name in self._own else _package(points[point.name])
                said = (
                    f"the {self.kind} {point.name!r} of {_package(point)} is ignored: {other} has this name"
                )
                warnings.warn(said, LayerprobeWarning, stacklevel=4)
            else:
                points[point.name] = point
        return points

    def __contains__(self, name: object) -> bool:
        return name in self.data or name in self._points

    def __setitem__(self, name: str, value: Value) -> None:
        super().__setitem__(name, value)
        self._modules[name] = calling_module()
        self._origins.pop(name, None)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._modules.pop(name, None)
        self._origins.pop(name, None)


@dataclass(frozen=True)
class Registrations:
    """All values from outside, for a process on this or another machine.

    The import paths are pickled first: a process that receives this object extends its own import path before
    it reads the values, whose modules it may have to import.
    """

    places: "_Places"
    values: dict[str, dict[str, tuple[Any, dict[str, str]]]]  # with their origins, by group and name

    @classmethod
    def here(cls) -> "Registrations":
        """Return the values that were registered in this process."""
        path = tuple(os.path.abspath(place) for place in sys.path)
        modules = {name for registry in Registry.every.values() for name in registry.sources}
        values = {
            group: {name: (registry[name], registry.origin(name)) for name in registry._modules}
            for group, registry in Registry.every.items()
        }
        return cls(_Places(path, tuple(sorted(modules))), values)

    def apply(self) -> None:
        """Register the values in this process."""
        for group, entries in self.values.items():
            registry = Registry.every[group]
            for name, (value, origin) in entries.items():
                registry[name] = value
                registry._origins[name] = origin


@dataclass(frozen=True)
class _Places:
    path: tuple[str, ...]  # import path of the sender
    modules: tuple[str, ...]  # that add our own values

    def __reduce__(self) -> tuple[Any, ...]:
        return _extend, (self.path, self.modules)


def _extend(path: tuple[str, ...], modules: tuple[str, ...]) -> _Places:
    sys.path += [place for place in path if place not in sys.path and os.path.exists(place)]
    for module in modules:
        importlib.import_module(module)
    return _Places(path, modules)


def takes(function: Any, number: int) -> bool:
    """Return whether an object can be called with a number of positional arguments, as far as it states.

    Parameters
    ----------
    function : object
    number : int
    """
    try:
        inspect.signature(function).bind(*range(number))
    except TypeError:  # also if it cannot be called
        return False
    except ValueError:  # some builtins have no signature
        pass
    return True


def calling_module() -> str:
    """Return the name of the module that called the caller of this function."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"


def _version(module: str) -> dict[str, str]:
    """Return the version of an imported module: of its distribution, its own, or the hash of its file."""
    top = module.partition(".")[0]
    for package in importlib.metadata.packages_distributions().get(top, []):
        return {"package": package, "version": importlib.metadata.version(package)}
    version = getattr(sys.modules.get(top), "__version__", None)
    if isinstance(version, str):
        return {"version": version}
    file = getattr(sys.modules.get(module), "__file__", None)
    return {"sha256": sha256(Path(file).read_bytes()).hexdigest()} if file and os.path.isfile(file) else {}
