"""Which of the layers that run are meant: by pattern, or by default."""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from types import EllipsisType

import torch

from layerprobe.errors import InputError, LayerError
from layerprobe.layers.tracing import Site, Trace

__all__ = ["Maybe", "Selection", "matches", "require_matches"]


class Maybe(str):
    """A pattern that may match nothing."""

    __slots__ = ()


class Selection:
    """The layers that are meant: settled by the first batch, demanded of every other.

    `layers` is a name, a glob pattern, several, or None for the default: the input (unless it is token ids)
    and the output of every nonlinearity; in a model without any, of every module without children, except
    the head. Among several, ``...`` stands for the default.
    """

    def __init__(self, layers: str | Iterable[str | EllipsisType] | None) -> None:
        several = isinstance(layers, Iterable) and not isinstance(layers, str)
        chosen = [...] if layers is None else list(layers) if several else [layers]
        for name in chosen:
            if name is not ... and not isinstance(name, str):
                raise InputError(f"expected names or patterns of layers, got {name!r}; write {str(name)!r}")
        self.default = ... in chosen
        self.patterns = [pattern for pattern in chosen if isinstance(pattern, str)]
        if not chosen:
            raise InputError(
                "expected at least one layer or pattern, got none; layers=None takes the default"
            )
        self.names: list[str] | None = None
        self._seen_nonlinearity = False

    def wants(self, site: Site) -> bool:
        """Tell, while the forward pass still runs, whether this site is or may yet be chosen."""
        if self.names is not None:
            return site.name in self.names
        if any(matches(site.name, pattern) for pattern in self.patterns):
            return True
        if not self.default:
            return False
        self._seen_nonlinearity |= site.nonlinear
        return site.nonlinear or _is_features(site) or (site.leaf and not self._seen_nonlinearity)

    def settle(self, trace: Trace, number: int) -> list[str]:
        """Name the chosen layers in order of execution, the same ones in every batch (`number` counts)."""
        if self.names is None:
            require_matches(self.patterns, trace.sites)
            self.names = self._choose(trace)
        now = self._choose(trace)
        for name in self.names:
            if name not in now:
                reason = next((site.obstacle for site in trace.sites if site.name == name), "it did not run")
                raise LayerError(
                    f"layer {name!r} gave rows in batch 1 but not in batch {number}: {reason}; "
                    "choose layers that every batch runs"
                )
        if extra := [name for name in now if name not in self.names]:
            raise LayerError(
                f"layer {extra[0]!r} gave rows in batch {number} but not in batch 1; "
                "choose layers that every batch runs"
            )
        return self.names

    def _choose(self, trace: Trace) -> list[str]:
        sites = [site for site in trace.sites if site.obstacle is None]
        names = {s.name for s in sites if any(matches(s.name, pattern) for pattern in self.patterns)}
        if self.default:
            nonlinear = any(site.nonlinear for site in sites)
            head = (trace.head, "output")
            names |= {
                site.name
                for site in sites
                if _is_features(site)
                or (site.nonlinear if nonlinear else site.leaf and site.name not in head)
            }
        return [site.name for site in sites if site.name in names]


def matches(name: str, pattern: str) -> bool:
    """Tell whether a glob pattern means this name; a name always means itself, brackets or not."""
    return name == pattern or fnmatchcase(name, pattern)


def require_matches(patterns: Iterable[str], sites: list[Site]) -> None:
    """Raise a LayerError if a pattern means no layer, or only layers that cannot be captured."""
    names = [site.name for site in sites if site.obstacle is None]
    for pattern in patterns:
        if isinstance(pattern, Maybe) or any(matches(name, pattern) for name in names):
            continue
        for site in sites:
            if matches(site.name, pattern):
                raise LayerError(f"layer {site.name!r} cannot be captured: {site.obstacle}")
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
        raise LayerError(
            f"no layer matches {pattern!r}"
            + (f"; near it are {', '.join(map(repr, near))}" if near else "")
            + f"; list_layers(model, batch) shows all {len(names)}"
        )


def _is_features(site: Site) -> bool:
    """Tell whether this is the input and holds numbers that mean something, images and not token ids."""
    return site.name == "input" and (site.dtype.is_floating_point or site.dtype is torch.uint8)
