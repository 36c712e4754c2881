"""Probes: classifiers that read a layer's outputs. One file and one line here for each."""

from typing import Any

from layerprobe.errors import InputError
from layerprobe.probes.base import MomentProbe, Probe, StagedProbe
from layerprobe.probes.knn import KNN
from layerprobe.probes.lda import LDA
from layerprobe.probes.linear import LinearProbe
from layerprobe.probes.logistic import LogisticRegression
from layerprobe.probes.masc import MASC
from layerprobe.probes.nearest_class_mean import NearestClassMean
from layerprobe.probes.qda import QDA
from layerprobe.probes.ridge import Ridge
from layerprobe.probes.shrinkage_lda import ShrinkageLDA
from layerprobe.probes.velpic import VeLPIC
from layerprobe.probes.whitened_knn import WhitenedKNN

__all__ = [
    "KNN",
    "LDA",
    "MASC",
    "QDA",
    "LinearProbe",
    "LogisticRegression",
    "MomentProbe",
    "NearestClassMean",
    "Probe",
    "Ridge",
    "ShrinkageLDA",
    "StagedProbe",
    "VeLPIC",
    "WhitenedKNN",
    "available",
    "create",
]

REGISTRY: dict[str, type[Probe]] = {
    "masc": MASC,
    "ncm": NearestClassMean,
    "logistic": LogisticRegression,
    "lda": LDA,
    "qda": QDA,
    "knn": KNN,
    "velpic": VeLPIC,
    "ridge": Ridge,
    "shrinkage_lda": ShrinkageLDA,
    "whitened_knn": WhitenedKNN,
}


def available() -> list[str]:
    """Names of all probes."""
    return list(REGISTRY)


def create(name: str, **parameters: Any) -> Probe:
    """Make an unfitted probe by its name, say ``create("masc", variance=0.9)``."""
    if name not in REGISTRY:
        raise InputError(f"Expected a probe of {', '.join(REGISTRY)}, got {name!r}.")
    return REGISTRY[name](**parameters)
