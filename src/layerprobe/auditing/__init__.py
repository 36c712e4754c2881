"""Audit: find wrong training labels with the layers of a network that was trained on them.

Start with `pipeline.py`, the path from labels to flags.
"""

from layerprobe.auditing.dataset.labelled import LabelledDataset, read_rows
from layerprobe.auditing.features import AuditPlan
from layerprobe.auditing.findings import RepairedLabels
from layerprobe.auditing.pipeline import audit, audit_features, audit_predictions, plan_audit
from layerprobe.auditing.result import Audit
from layerprobe.auditing.review.measuring import Review
from layerprobe.errors import renamed

__all__ = [
    "Audit",
    "AuditPlan",
    "LabelledDataset",
    "RepairedLabels",
    "Review",
    "audit",
    "audit_features",
    "audit_predictions",
    "plan_audit",
    "read_rows",
]

__getattr__ = renamed(__name__, {"Relabelled": RepairedLabels, "Rows": LabelledDataset})
