"""Probes: classifiers of the outputs of a layer. Each has one line in the registry here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from sklearn.base import ClassifierMixin, ClusterMixin, OutlierMixin, RegressorMixin, clone

from layerprobe.core.checks import check_strength
from layerprobe.errors import InputError
from layerprobe.probes.base import LinearProbe, MomentProbe, Probe, StagedProbe
from layerprobe.probes.class_directions import NearestClassMean, VeLPIC
from layerprobe.probes.discriminant_analysis import LDA, QDA, ShrinkageLDA
from layerprobe.probes.logistic import AdamLogisticRegression, LogisticRegression
from layerprobe.probes.masc import MASC
from layerprobe.probes.nearest_neighbours import KNN, WhitenedKNN
from layerprobe.probes.ridge import Ridge
from layerprobe.utils.registry import Registry, calling_module

__all__ = [
    "KNN",
    "LDA",
    "MASC",
    "QDA",
    "AdamLogisticRegression",
    "LinearProbe",
    "LogisticRegression",
    "MomentProbe",
    "NearestClassMean",
    "Probe",
    "Probes",
    "Ridge",
    "ShrinkageLDA",
    "StagedProbe",
    "VeLPIC",
    "WhitenedKNN",
    "available",
    "create",
    "named_probes",
    "register_probe",
]

Probes: TypeAlias = (
    str | ClassifierMixin | Iterable[str | ClassifierMixin] | Mapping[str, str | ClassifierMixin]
)
"""One or several probes, as arguments give them."""

CONTRACT = ("fit", "predict", "get_params")  # of scikit-learn's classifiers
OTHER_ESTIMATORS = (ClusterMixin, OutlierMixin, RegressorMixin)  # have these methods, but do not classify


def _check(name: str, probe: Any) -> type[Probe]:
    fulfils = isinstance(probe, type) and all(hasattr(probe, method) for method in CONTRACT)
    if not fulfils or issubclass(probe, OTHER_ESTIMATORS):
        raise InputError(
            f"expected a class with {', '.join(CONTRACT)} as the probe {name!r}, as a subclass of "
            f"layerprobe.probes.Probe or a classifier of scikit-learn; got {probe!r:.80}"
        )
    return probe


REGISTRY: Registry[type[Probe]] = Registry("probe", "layerprobe.probes", _check)
REGISTRY.own(
    {
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
        "logistic_adam": AdamLogisticRegression,
    }
)


def register_probe(name: str, probe: type) -> None:
    """Register a probe of your own, for `create`, `probe(probes=)`, and the option --probes.

    Installed packages register theirs by the entry points "layerprobe.probes".

    Parameters
    ----------
    name : str
    probe : type
        A subclass of `Probe`, or any class with scikit-learn's contract of classifiers. Its arguments need
        defaults.

    Raises
    ------
    InputError
        If the name is one of layerprobe's own probes, or `probe` is no such class.

    Examples
    --------
    >>> from sklearn.naive_bayes import GaussianNB
    >>> register_probe("naive_bayes", GaussianNB)
    >>> create("naive_bayes")
    GaussianNB()
    """
    REGISTRY.register(name, probe, calling_module())


def available() -> list[str]:
    """Return the names of all probes, those of installed packages among them."""
    return REGISTRY.names()


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
    return REGISTRY[name](**parameters)


def named_probes(probes: Probes, variances: Sequence[float] | None = None) -> dict[str, ClassifierMixin]:
    """Return probes by name, each MASC once per variance.

    Parameters
    ----------
    probes : str, classifier, sequence or mapping of them
        Names of ``layerprobe.probes.available()``, or classifiers.
    variances : sequence of float, optional
        Variances in (0, 1] for every MASC.

    Returns
    -------
    dict of str to classifier

    Raises
    ------
    InputError
        For names that are not distinct, unknown probes or invalid variances.
    """
    pairs: list[tuple[Any, Any]]
    if isinstance(probes, Mapping):
        pairs = list(probes.items())
    else:
        single = isinstance(probes, str | type) or not isinstance(probes, Iterable)
        kinds: dict[Any, str] = {kind: name for name, kind in REGISTRY.items()}
        pairs = [
            (one if isinstance(one, str) else kinds.get(type(one), type(one).__name__), one)
            for one in ([probes] if single else probes)
        ]
    for _, one in pairs:
        if isinstance(one, type):
            raise InputError(f"expected a probe, got the class {one.__name__}; write {one.__name__}()")
        if not isinstance(one, str) and not all(hasattr(one, name) for name in CONTRACT):
            raise InputError(
                f"expected names of probes ({', '.join(REGISTRY)}) or classifiers with scikit-learn's "
                f"contract, got {one!r:.80}"
            )
    names = [name for name, _ in pairs]
    if not names or len(set(names)) < len(names) or "network" in names or set(map(type, names)) != {str}:
        raise InputError(
            f"expected probes of different names, none of them 'network', got {names}; "
            "a mapping {name: probe} gives them names"
        )
    made = {name: create(one) if isinstance(one, str) else one for name, one in pairs}
    if variances is None:
        return made
    if isinstance(variances, str) or not isinstance(variances, Iterable) or not (shares := list(variances)):
        raise InputError(f"expected variances as a sequence of floats in (0, 1], got {variances!r}")
    for share in shares:
        check_strength(share, None)
    if len(set(shares)) < len(shares) or not any(isinstance(one, MASC) for one in made.values()):
        raise InputError(f"expected different variances, and masc among the probes, got {shares} and {names}")
    several: dict[str, ClassifierMixin] = {}
    for name, one in made.items():
        if isinstance(one, MASC):  # "masc 1" would look like one component
            titles = {f"{name} {'1.0' if share == 1 else f'{share:g}'}": share for share in shares}
            several |= {title: clone(one).set_params(variance=share) for title, share in titles.items()}
        else:
            several[name] = one
    return several
