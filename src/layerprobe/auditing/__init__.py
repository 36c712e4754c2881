"""Audit: the truth out of a network that someone already trained on wrong labels.

`running.py` is the way in, `deciding.py` what it comes down to.
"""

from layerprobe.auditing.from_features import audit_features
from layerprobe.auditing.relabelling import Relabelled
from layerprobe.auditing.result import Audit
from layerprobe.auditing.rows import Rows, read_rows
from layerprobe.auditing.running import audit

__all__ = ["Audit", "Relabelled", "Rows", "audit", "audit_features", "read_rows"]
