"""layerprobe: find the layer of a trained network that predicts better than its head."""

from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import warn

if TYPE_CHECKING:
    from layerprobe.auditing import Audit, audit, audit_features, audit_predictions
    from layerprobe.core import ClassMoments, Subspaces
    from layerprobe.editing import edit_head
    from layerprobe.errors import LayerprobeError, LayerprobeWarning
    from layerprobe.layers import capture, list_layers
    from layerprobe.layerwise import ProbeTable, plan, probe
    from layerprobe.probes import MASC
    from layerprobe.recording import History

__all__ = [
    "MASC",
    "Audit",
    "ClassMoments",
    "History",
    "LayerprobeError",
    "LayerprobeWarning",
    "ProbeTable",
    "Subspaces",
    "audit",
    "audit_features",
    "audit_predictions",
    "capture",
    "edit_head",
    "list_layers",
    "plan",
    "probe",
]
__version__ = "0.1.0"

_NAMES = {
    "auditing": ("Audit", "audit", "audit_features", "audit_predictions"),
    "core": ("ClassMoments", "Subspaces"),
    "editing": ("edit_head",),
    "errors": ("LayerprobeError", "LayerprobeWarning"),
    "layers": ("capture", "list_layers"),
    "layerwise": ("ProbeTable", "plan", "probe"),
    "probes": ("MASC",),
    "recording": ("History",),
}
_HOMES = {name: part for part, names in _NAMES.items() for name in names}
_PARTS = {*_NAMES, "baselines", "data", "distributed", "figures", "networks", "paper", "runs", "training"}
_RENAMED = {"probing": "layerwise", "planning": "layerwise"}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that ``layerprobe --help`` does not import torch."""
    if name in _RENAMED:
        warn(f"layerprobe.{name} is now layerprobe.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
