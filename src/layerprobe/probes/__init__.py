"""Probes: classifiers of the outputs of a layer. Each has one file and one line in the registry here."""

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
    """Return the names of all probes."""
    return list(REGISTRY)


def create(name: str, **parameters: Any) -> Probe:
    """Return an unfitted probe by its name.

    Parameters
    ----------
    name : str
        One of :func:`available`.
    **parameters
        Arguments of the probe's constructor, for example ``create("masc", variance=0.9)``.

    Raises
    ------
    InputError
        For an unknown name.
    """
    if name not in REGISTRY:
        raise InputError(f"Expected one of the probes {', '.join(REGISTRY)}, got {name!r}.")
    return REGISTRY[name](**parameters)
