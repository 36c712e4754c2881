"""Audit: the truth out of a network that someone already trained on wrong labels.

`running.py` is the way in, `deciding.py` what it comes down to.
"""

from layerprobe.auditing.dataset.reading import Rows, read_rows
from layerprobe.auditing.feature_audit import audit_features
from layerprobe.auditing.network_audit import audit
from layerprobe.auditing.relabelling import Relabelled
from layerprobe.auditing.result import Audit

__all__ = ["Audit", "Relabelled", "Rows", "audit", "audit_features", "read_rows"]
