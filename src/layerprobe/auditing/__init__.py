"""Audit: the truth out of a network that someone already trained on wrong labels.

`running.py` is the way in, `deciding.py` what it comes down to.
"""

from typing import Any

from layerprobe.auditing.dataset.labelled import LabelledDataset
from layerprobe.auditing.dataset.readers import read_rows
from layerprobe.auditing.feature_audit import audit_features
from layerprobe.auditing.network_audit import audit
from layerprobe.auditing.relabelling import Relabelled
from layerprobe.auditing.result import Audit

__all__ = ["Audit", "LabelledDataset", "Relabelled", "audit", "audit_features", "read_rows"]


def __getattr__(name: str) -> Any:
    if name == "Rows":
        import warnings

        warnings.warn("Rows is deprecated: use LabelledDataset.", DeprecationWarning, stacklevel=2)
        return LabelledDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
