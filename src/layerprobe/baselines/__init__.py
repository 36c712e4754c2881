"""Published detectors of wrong labels, with the methods of :class:`Detector`, by name."""

from collections.abc import Iterable, Mapping
from typing import Any

from layerprobe.baselines.base import Detection, Detector
from layerprobe.baselines.features import FINE, HOC, DeepKNN, NoiseRates, SimiFeatRank, SimiFeatVote
from layerprobe.baselines.history import AUM, DataMaps, MeanMargin
from layerprobe.baselines.probabilities import LossGMM, NormalizedMargin, SelfConfidence
from layerprobe.errors import InputError, unknown_name

__all__ = [
    "AUM",
    "FINE",
    "HOC",
    "DataMaps",
    "DeepKNN",
    "Detection",
    "Detector",
    "LossGMM",
    "MeanMargin",
    "NoiseRates",
    "NormalizedMargin",
    "SelfConfidence",
    "SimiFeatRank",
    "SimiFeatVote",
    "available",
    "create",
    "named_detectors",
]

REGISTRY: dict[str, type[Detector]] = {
    "self_confidence": SelfConfidence,
    "normalized_margin": NormalizedMargin,
    "loss_gmm": LossGMM,
    "fine": FINE,
    "deep_knn": DeepKNN,
    "simifeat_vote": SimiFeatVote,
    "simifeat_rank": SimiFeatRank,
    "hoc": HOC,
    "aum": AUM,
    "data_maps": DataMaps,
    "mean_margin": MeanMargin,
}


def available() -> list[str]:
    """Return the names of all detectors."""
    return list(REGISTRY)


def create(name: str, **parameters: Any) -> Detector:
    """Return a detector by its name.

    Parameters
    ----------
    name : str
        One of :func:`available`.
    **parameters
        Arguments of the detector's constructor, for example ``create("simifeat_vote", k=20)``.

    Raises
    ------
    InputError
        For an unknown name.
    """
    if name not in REGISTRY:
        raise unknown_name("detector", name, REGISTRY)
    return REGISTRY[name](**parameters)


def named_detectors(detectors: Any = None) -> dict[str, Detector]:
    """Return detectors by name.

    Parameters
    ----------
    detectors : str, Detector, sequence of them, or mapping of names to them, optional
        Default: all of :func:`available`.

    Raises
    ------
    InputError
        If there is no detector, two have the same name, or one is not a detector.
    """
    if detectors is None:
        detectors = available()
    if isinstance(detectors, Mapping):
        pairs = list(detectors.items())
    else:
        names = {kind: name for name, kind in REGISTRY.items()}
        listed = (
            detectors if isinstance(detectors, Iterable) and not isinstance(detectors, str) else [detectors]
        )
        pairs = [(d if isinstance(d, str) else names.get(type(d), type(d).__name__), d) for d in listed]
    named = {name: create(d) if isinstance(d, str) else d for name, d in pairs}
    if not named or len(named) < len(pairs) or not all(isinstance(d, Detector) for d in named.values()):
        raise InputError(
            f"expected detectors of different names, from {', '.join(REGISTRY)} or instances of Detector; "
            f"got {detectors!r}; a mapping {{name: detector}} gives them names"
        )
    return named
