"""What benchmarks/core.py times: one problem of a given shape, and every job on it."""

import sys
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA

from layerprobe.core import ClassMoments, fit_subspaces
from layerprobe.core.linalg import eigenpairs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import reference

VARIANCE = 0.99
VARIANCES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
SHAPES = {128: (60_000, 10), 512: (60_000, 10), 784: (60_000, 10), 2048: (60_000, 10), 4096: (50_000, 100)}
TEST_ROWS = 10_000
BATCH = 100  # rows that the literal algorithm takes at a time


def relu_features(n: int, d: int, K: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a random ReLU layer on clustered inputs with a decaying spectrum, (n, d), and classes, (n,)."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, 129) ** -1.0
    codes = torch.arange(n) % K
    codes = codes[torch.randperm(n, generator=generator)]
    inputs = torch.randn(K, 128, generator=generator)[codes] + torch.randn(n, 128, generator=generator)
    weights = torch.randn(128, d, generator=generator) * scales[:, None]
    noise = 0.02 * torch.randn(n, d, generator=generator)
    return (inputs @ weights + noise).relu(), codes


class Problem:
    """Data of one shape, and every job on them."""

    def __init__(self, d: int, n: int, K: int) -> None:
        self.n, self.d, self.K = n, d, K
        self.X, codes = relu_features(n + TEST_ROWS, d, K)
        self.codes, self.train = codes[:n], self.X[:n]
        self.gram = n // K < d
        self.few_classes = 3 if self.gram else K  # of d x d matrices, which nobody needs here
        self.some = self.X[-TEST_ROWS:] if self.gram else self.X  # rows that are predicted

    @cached_property
    def matrix(self) -> torch.Tensor:
        """What is decomposed for one class."""
        rows = self.train[self.codes == 0].double()
        return rows @ rows.T if self.gram else rows.T @ rows

    def fit(self) -> object:
        """Fit our subspaces."""
        self.subspaces = fit_subspaces(self.train, self.codes, self.K, variance=VARIANCE)
        return self.subspaces

    def predict(self) -> object:
        """Predict with them."""
        self.labels = self.subspaces.predict(self.some)
        return self.labels

    def predict_six(self) -> object:
        """Predict at six variances from one pass."""
        stages = [self.subspaces.ranks_at(variance=v) for v in VARIANCES]
        return self.subspaces.staged_predict(self.some, stages)

    def stream(self) -> object:
        """Fit from batches of 128 rows."""
        moments = ClassMoments(self.K, self.d)
        for X, codes in zip(self.train.split(128), self.codes.split(128), strict=True):
            moments.update(X, codes)
        return moments.subspaces(variance=VARIANCE)

    def eigh_ours(self) -> object:
        """Decompose one matrix as a fit does."""
        return eigenpairs(self.matrix)[1](round(np.mean(self.subspaces.ranks)))

    def scikit_learn_fit(self, solver: str = "auto") -> object:
        """Fit PCA to each class and its negatives, as the paper's text has it."""
        X, codes = self.train.numpy(), self.codes.numpy()
        self.pca = []
        for k in range(self.K):
            rows = X[codes == k]
            doubled = np.concatenate([rows, -rows])
            self.pca.append(PCA(VARIANCE, svd_solver=solver).fit(doubled).components_)
        return self.pca

    def scikit_learn_fit_full(self) -> object:
        """Fit by a singular value decomposition, which scikit-learn takes on its own where d > 1000."""
        return self.scikit_learn_fit("full")

    def scikit_learn_predict(self) -> object:
        """Give the class of the largest projection."""
        X = self.some.numpy()
        self.pca_labels = np.argmax([np.square(X @ basis.T).sum(1) for basis in self.pca], axis=0)
        return self.pca_labels

    def torch_fit(self, dtype: torch.dtype = torch.float64) -> object:
        """Fit as one writes it in torch: float32 products, eigh in either precision."""
        bases = []
        for k in range(self.few_classes):
            rows = self.train[self.codes == k]
            values, vectors = torch.linalg.eigh((rows.T @ rows).to(dtype))
            share = values.flip(0).cumsum(0) / values.sum()
            rank = int((share <= VARIANCE).sum()) + 1
            bases.append(vectors[:, -rank:].float())
        self.torch_bases = bases if len(bases) == self.K else [U.clone() for U in self.subspaces.bases]
        return bases

    def torch_fit32(self) -> object:
        """Fit with a float32 eigh."""
        return self.torch_fit(torch.float32)

    def torch_predict(self) -> object:
        """Predict as one writes it in torch."""
        X = self.some
        scores = [(X @ U).square().sum(1) for U in self.torch_bases]
        return (torch.stack(scores, 1) / X.square().sum(1, keepdim=True)).argmax(1)

    def literal_fit(self) -> object:
        """Decompose the covariance of the doubled data."""
        X, codes = self.train.double().numpy(), self.codes.numpy()
        self.literal = []
        for k in range(self.few_classes):
            values, vectors = np.linalg.eigh(reference.covariance(reference.double(X[codes == k])))
            values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
            rank = reference.choose_rank(values, VARIANCE)
            self.literal.append(np.ascontiguousarray(vectors[:, :rank]))
        return self.literal

    def literal_predict(self) -> object:
        """Take the smallest angle, batch by batch."""
        bases = self.literal
        if len(bases) < self.K:  # the others' angles cost as much with our bases
            bases = bases + [U.double().numpy() for U in self.subspaces.bases[len(bases) :]]
        labels = []
        for batch in self.some.double().split(BATCH):
            X = batch.numpy()
            norms = np.linalg.norm(X, axis=1)
            angles = [np.arccos(np.minimum(np.linalg.norm(X @ U @ U.T, axis=1) / norms, 1)) for U in bases]
            labels.append(np.argmin(angles, axis=0))
        self.literal_labels = np.concatenate(labels)
        return self.literal_labels

    def oracle_fit(self) -> object:
        """Fit one class by tests/reference.py as it is, which takes a singular value decomposition too."""
        X = self.train[self.codes == 0].double().numpy()
        self.oracle = reference.fit_class(X, VARIANCE)
        return self.oracle

    def oracle_predict(self) -> object:
        """Predict one batch of 100 rows by it, point by point and direction by direction."""
        bases = [U.double().numpy() for U in self.subspaces.bases]
        parts = [reference.ClassSubspace(np.empty(0), U, U.shape[1]) for U in bases]
        self.oracle_labels = reference.predict(self.some[:BATCH].double().numpy(), parts)
        return self.oracle_labels
