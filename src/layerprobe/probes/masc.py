"""MASC, the Minimum Angle Subspace Classifier, as a scikit-learn estimator."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from layerprobe.core import ClassMoments, Subspaces, fit_subspaces
from layerprobe.core.checks import check_strength, widen
from layerprobe.core.correction import correct_moments, fit_corrected, noise_weights
from layerprobe.core.statistics import Statistics
from layerprobe.errors import InputError, LayerprobeWarning, warn
from layerprobe.probes.base import CalibratedProbe, StagedProbe, encode, label_array, like
from layerprobe.utils.settings import default_settings

DEFAULT_VARIANCE = 0.99  # the paper's


class MASC(StagedProbe, CalibratedProbe):
    """Minimum Angle Subspace Classifier (Algorithms 1-3 of the paper).

    The outputs of a layer for each class span a PCA subspace through the origin. A point gets the class whose
    subspace makes the smallest angle with it. The scale of a point has no effect.

    `predict_proba` is the softmax of the squared cosines times an inverse temperature `beta_`, calibrated by
    cross-validation (`CalibratedProbe`). The paper has no probabilities.

    Parameters
    ----------
    variance : float in (0, 1], default 0.99
        Each class keeps the fewest components that hold more than this share of its second moment.
    components : int, optional
        Keep exactly this many components instead. Replaces the default variance; an error beside any other
        variance.
    noise : float or array of shape (K, K), optional
        Label noise to subtract from the second moments. A float p in [0, 1):
        each label was redrawn uniformly from all K classes with this probability, so that p (1 - 1/K) of them
        are wrong. A matrix: in row i, column j the probability of the label j for a row of true class i, in
        the order of ``classes_``. The noise must not depend on the row otherwise.
    exact : bool, default False
        Multiply, decompose and score in float64 throughout, for rows of any dtype. The default multiplies
        float32 rows in float32, and sums and decomposes in float64. Where float32 cannot order the two
        largest squared cosines, float64 decides, but on bases that come from float32 products. If the two
        differ by about 1e-6 or less, the label can still differ from that with ``exact=True``.

    Attributes
    ----------
    subspaces_ : Subspaces
        The fitted subspaces: ``ranks``, ``bases``, ``eigenvalues``.
    classes_ : ndarray of shape (K,)
    n_features_in_ : int

    Notes
    -----
    Second moments are linear in the noise: see ``core/correction.py``. Corrected ones have sampling error in
    every direction: use a smaller variance than that of the paper, or ``components=``.

    References
    ----------
    "Decoding Generalization from Memorization in Deep Neural Networks", arXiv 2501.14687.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from layerprobe import MASC
    >>> X, y = load_digits(return_X_y=True)
    >>> masc = MASC(variance=0.9).fit(X[:1500], y[:1500])
    >>> bool(masc.score(X[1500:], y[1500:]) > 0.9)
    True
    """

    reads: ClassVar[frozenset[str]] = frozenset({"moments"})
    stage: ClassVar[str] = "variance"
    _subspaces: Subspaces | None

    def __init__(
        self,
        variance: float | None = DEFAULT_VARIANCE,
        components: int | None = None,
        noise: Any = None,
        exact: bool = False,
    ) -> None:
        self.variance = variance
        self.components = components
        self.noise = noise
        self.exact = exact

    @default_settings()
    def partial_fit(self, X: Any, y: Any, classes: Sequence | np.ndarray | None = None) -> Self:
        """Add a batch; the subspaces are those of all batches together, for any split.

        ``fit`` keeps no moments: the first call after it starts anew, with a warning.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
        y : sequence of n labels
        classes : sequence of K labels
            All classes; required in the first call of an unfitted probe.

        Returns
        -------
        self
        """
        first = not hasattr(self, "moments_")
        rows, labels = self._training_rows(X, y, reset=first)
        if first:
            rows = widen(rows)
            self._start(rows, classes)
        elif classes is not None and list(encode(label_array(classes))[0]) != list(self.classes_):
            raise InputError(f"classes= must stay those of the first call, {self.classes_.tolist()}.")
        index_of = {label: k for k, label in enumerate(self.classes_.tolist())}
        try:
            indices = torch.tensor([index_of[label] for label in labels.tolist()])
        except KeyError as error:
            raise InputError(f"y has the label {error}, which classes= did not name.") from None
        self.moments_.update(rows, indices)
        self._keep_more(rows, indices.to(rows.device))
        self._subspaces = None
        return self

    @default_settings()
    def predict_indices(self, X: Any) -> Tensor:
        """Predict positions in ``classes_``, (n,); float64 decides between nearly equal angles."""
        return self.subspaces_.predict(self._query_rows(X))

    @default_settings()
    def squared_cosines(self, X: Any) -> Any:
        """Return the squared cosine of the angle to the subspace of each class, (n, K)."""
        return like(self._scores(self._query_rows(X)), X)

    @default_settings()
    def angles(self, X: Any) -> Any:
        """Return the angle to the subspace of each class in radians, (n, K)."""
        return like(self.subspaces_.angles(self._query_rows(X)), X)

    @default_settings()
    def staged_predict(
        self, X: Any, variances: Sequence[float] = (), components: Sequence[int] = ()
    ) -> Iterator[Any]:
        """Predict at several variances or numbers of components from one projection.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
        variances : sequence of float
            At most the fitted variance each.
        components : sequence of int
            Numbers of components, after the variances.

        Yields
        ------
        array or Tensor of shape (n,)
            Labels, first for each of the variances and then for each of the numbers of components.
        """
        if not all(isinstance(stages, Sequence | np.ndarray) for stages in (variances, components)):
            raise InputError("expected sequences of variances and of components, say [0.5, 0.99] and [1]")
        if len(variances) + len(components) == 0:
            raise InputError("expected at least one variance or number of components to predict at")
        rows, subspaces = self._query_rows(X), self.subspaces_
        stages = [subspaces.ranks_at(variance=v) for v in variances]
        stages += [subspaces.ranks_at(components=c) for c in components]
        return iter([self._name(indices, X) for indices in subspaces.staged_predict(rows, stages)])

    @property
    def subspaces_(self) -> Subspaces:
        """The fitted subspaces; after ``partial_fit`` they are fitted at first use."""
        if not hasattr(self, "_subspaces"):
            self._require_fit()
        if self._subspaces is None:
            if self.noise is None:
                self._subspaces = self.moments_.subspaces(**self._options())
            else:
                weights = noise_weights(self.noise, len(self.classes_))
                self._subspaces = correct_moments(self.moments_, weights, **self._options())
        return self._subspaces

    def at(self, value: float) -> Self:
        """Return this fitted probe at another variance, at most the fitted one, without ``components``.

        Parameters
        ----------
        value : float in (0, 1]

        Raises
        ------
        InputError
            If a class would need more components than were kept: fit with the largest variance.
        """
        self.subspaces_  # noqa: B018 (once for all stages, after partial_fit)
        stage = copy.copy(self)
        stage.components = None
        stage.__dict__.pop("moments_", None)  # they belong to this probe alone
        return super(MASC, stage).at(value)

    def _check_stage(self) -> None:
        self._options()

    def _restage(self) -> None:
        subspaces = self.subspaces_
        self._subspaces = replace(subspaces, ranks=subspaces.ranks_at(variance=self.variance))

    def _staged_scores(self, X: Tensor, stages: Sequence[Self]) -> Iterator[Tensor]:
        ranks = [stage.subspaces_.ranks for stage in stages]
        return iter(self.subspaces_.staged_squared_cosines(X, ranks))

    def _fit_weighted(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None) -> None:
        options, rows = self._options(), X
        if weights is not None:  # a second moment of weighted rows is that of rows times sqrt(w)
            rows = X * weights.sqrt()[:, None]  # float64: shares that equal the variance stay equal to it
        if self.noise is None:
            fitted = fit_subspaces(rows, y, num_classes, exact=self.exact, **options)
        else:
            matrix = noise_weights(self.noise, num_classes)
            fitted = fit_corrected(rows.double() if self.exact else rows, y, matrix, **options)
        if weights is not None and not self.exact:
            fitted = replace(fitted, columns=fitted.columns.to(X))
        self._subspaces = fitted
        self.__dict__.pop("moments_", None)  # those of an earlier partial_fit

    @property
    def streams(self) -> bool:
        """Whether sums over rows are enough: not for the weakest directions, nor to correct noise."""
        return self.noise is None and not self.exact and self.variance != 1.0

    def _fit_statistics(self, statistics: Statistics) -> None:
        self._subspaces = statistics.subspaces(**self._options())

    def _scores(self, X: Tensor) -> Tensor:
        return self.subspaces_.squared_cosines(X)

    def _start(self, rows: Tensor, classes: Sequence | np.ndarray | None) -> None:
        """Set up `partial_fit` for rows like the first ones."""
        if classes is not None:
            self.classes_ = encode(label_array(classes))[0]
        elif not hasattr(self, "classes_"):
            raise InputError("The first call of partial_fit needs classes=, the labels that will come.")
        if hasattr(self, "_subspaces"):
            warn(
                "partial_fit after fit starts anew: use partial_fit for all batches, or fit for all rows.",
                LayerprobeWarning,
            )
        self._options()
        if self.noise is not None:
            noise_weights(self.noise, len(self.classes_))
        self._keep_none()
        dtype = torch.float64 if self.exact else rows.dtype
        self.moments_ = ClassMoments(len(self.classes_), rows.shape[1], dtype=dtype, device=rows.device)

    def _options(self) -> dict[str, Any]:
        """Return the checked arguments of `fit_subspaces`: variance or components, and the classes."""
        replaced = self.components is not None and self.variance == DEFAULT_VARIANCE
        variance = None if replaced else self.variance
        check_strength(variance, self.components)
        return {"variance": variance, "components": self.components, "classes": self.classes_.tolist()}
