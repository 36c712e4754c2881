"""k nearest neighbours."""

from typing import Any

from sklearn.neighbors import KNeighborsClassifier

from layerprobe.probes.sklearn_probe import SklearnProbe


class KNN(SklearnProbe):
    """k nearest neighbours by cosine distance, scikit-learn's; scores are shares of the votes.

    Parameters
    ----------
    n_neighbors : int, default 5
    metric : str, default "cosine"
    """

    def __init__(self, n_neighbors: int = 5, metric: str = "cosine") -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric

    def _estimator(self) -> Any:
        return KNeighborsClassifier(n_neighbors=self.n_neighbors, metric=self.metric)
