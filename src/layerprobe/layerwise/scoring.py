"""Fitted probes of one layer: predictions of all of them from one look at the rows, counted, not kept."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from torch import Tensor

from layerprobe.core.products import Plan, plan_products
from layerprobe.core.scoring import codes_by_stage
from layerprobe.errors import InputError
from layerprobe.layerwise.plans import SCORED
from layerprobe.probes import MASC, Probe
from layerprobe.utils.distributed import sum_over_processes

__all__ = ["Fitted", "LayerScorer", "Tally", "Truth"]


class Fitted(NamedTuple):
    """A probe fitted on one layer and set of labels."""

    name: str
    fitted_on: str
    probe: ClassifierMixin
    codes: Tensor  # (K of its labels,): their codes among the classes of all sets
    components: float
    seconds: float
    where: str  # for messages


class Truth(NamedTuple):
    """Labels of some rows, each set by its name."""

    names: Sequence[str]
    codes: Tensor  # (S, n) among the classes of all sets, -1 for none of them
    labels: Sequence[np.ndarray]  # S of (n,)


@dataclass
class Tally:
    """How many rows of a split each probe got right, and in what time."""

    rows: int = 0
    right: Counter = field(default_factory=Counter)  # by place of the probe and of the label set
    seconds: defaultdict = field(default_factory=partial(defaultdict, float))  # by place of the probe

    def add(self, place: int, right: Sequence[int], seconds: float) -> None:
        """Add what the probe at a place got right of some rows, by each set of labels."""
        for s, count in enumerate(right):
            self.right[place, s] += count
        self.seconds[place] += seconds

    def sum_over_processes(self, places: Sequence[int], sets: int) -> None:
        """Add the counts of the other processes of the job."""
        keys = [(place, s) for place in places for s in range(sets)]
        mine = torch.tensor([self.rows, *(self.right[key] for key in keys)], dtype=torch.int64)
        self.rows, *right = sum_over_processes(mine).tolist()
        self.right = Counter(dict(zip(keys, right, strict=True)))


class LayerScorer:
    """Predicts with all probes of a layer; subspaces of all variances and label sets share one projection."""

    def __init__(self, fitted: Sequence[Fitted]) -> None:
        self.fitted = list(fitted)
        self.single: list[int] = []
        sharing: dict[torch.dtype, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, one in enumerate(fitted):
            if isinstance(one.probe, MASC):
                columns = one.probe.subspaces_.columns  # one tensor for all variances of a fit
                sharing[columns.dtype][id(columns)].append(place)
            else:
                self.single.append(place)
        self.plans: list[tuple[Plan, list[list[int]], torch.dtype]] = []
        for dtype, groups in sharing.items():
            requests = []
            for places in groups.values():
                subspaces = [fitted[place].probe.subspaces_ for place in places]
                requests.append(subspaces[0].request([one.ranks for one in subspaces]))
            self.plans.append((plan_products(requests), list(groups.values()), dtype))

    def count(self, X: Tensor, truth: Truth, tally: Tally) -> None:
        """Count what every probe gets right of the rows of X, (n, d)."""
        tally.rows += len(X)
        if not len(X):
            return
        for part in torch.arange(len(X)).split(SCORED):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            codes, labels = truth.codes[:, rows], [one[rows] for one in truth.labels]
            for place, predicted, seconds in self._predict(X[rows]):
                if isinstance(predicted, Tensor):
                    right = (codes == predicted.cpu()).sum(1).tolist()
                else:
                    right = [int(np.sum(predicted == one)) for one in labels]
                tally.add(place, right, seconds)

    def _predict(self, X: Tensor) -> Iterator[tuple[int, Tensor | np.ndarray, float]]:
        """Predict with each probe: codes among the classes of all sets, or labels of an estimator's own."""
        for plan, groups, dtype in self.plans:
            start = time.perf_counter()
            found = codes_by_stage(X.to(plan.left_over.device, dtype), plan)
            seconds = time.perf_counter() - start
            for places, stages in zip(groups, found, strict=True):
                for place, codes in zip(places, stages, strict=True):
                    yield place, self.fitted[place].codes[codes.cpu()], seconds
        for place in self.single:
            one = self.fitted[place]
            start = time.perf_counter()
            predicted: Tensor | np.ndarray
            try:
                if isinstance(one.probe, Probe):
                    predicted = one.codes[one.probe.predict_codes(X).cpu()]
                else:
                    predicted = np.asarray(one.probe.predict(X.cpu().numpy()))
            except ValueError as error:
                raise InputError(f"{one.where}: {error}") from error
            yield place, predicted, time.perf_counter() - start
