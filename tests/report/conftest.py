import numpy as np
import pandas as pd
import pytest

COLUMNS = ["corruption", "seed", "layer", "probe", "fitted_on", "split", "labels", "accuracy"]
COLUMNS += ["components", "seconds"]
NETWORK = {("train", "noisy"): 1.0, ("train", "true"): 0.46, ("test", "true"): 0.54}
# Test accuracies over input, fc1, fc2; training accuracies matter only for the figure.
TESTS = {
    ("masc", "noisy"): [0.70, 0.80, 0.60],
    ("ncm", "noisy"): [0.88, 0.75, 0.50],
    ("knn", "noisy"): [0.40, 0.40, 0.65],
    ("masc", "true"): [0.97, 0.98, 0.96],
    ("ncm", "true"): [0.90, 0.91, 0.92],
    ("knn", "true"): [0.95, 0.94, 0.93],
}


@pytest.fixture
def planted():
    """Make rows as `probe` gives them: known test accuracies, the seeds 1 point apart."""

    def make(seeds=3, tests=TESTS, network=NETWORK, fits=("noisy", "true")):
        lines = []
        for seed in range(seeds):
            shift = 0.01 * (seed - (seeds - 1) / 2)

            def add(layer, probe, fitted_on, split, labels, accuracy, seed=seed):
                lines.append((0.6, seed, layer, probe, fitted_on, split, labels, accuracy, np.nan, 0.1))

            for (split, labels), accuracy in network.items():
                add("output", "network", "", split, labels, accuracy)
            for (probe, fitted_on), accuracies in tests.items():
                for i, layer in enumerate(["input", "fc1", "fc2"]):
                    if fitted_on in fits:
                        add(layer, probe, fitted_on, "train", "noisy", 0.5 + 0.1 * i)
                        add(layer, probe, fitted_on, "train", "true", 0.9 - 0.1 * i)
                        add(layer, probe, fitted_on, "test", "true", accuracies[i] + shift)
        return pd.DataFrame(lines, columns=COLUMNS)

    return make
