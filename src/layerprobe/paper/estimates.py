"""How long runs will take here: a rough guess, for who decides whether to begin."""

import time
from collections.abc import Sequence

import torch

from layerprobe.paper import published
from layerprobe.runs.grid import operations
from layerprobe.runs.scheduler import Location
from layerprobe.runs.specs import RunSpec
from layerprobe.runs.states import so_far
from layerprobe.utils.threads import one_thread

__all__ = ["epochs_expected", "seconds_left"]

EFFICIENCY = 0.6  # of the matrix-product rate that training reaches, between the MLP's and the CNN's


def seconds_left(specs: Sequence[RunSpec], root: Location) -> float:
    """Return about how many seconds of one core these runs still need, by this machine's matrix products."""
    rate = EFFICIENCY * _operations_a_second() if specs else 1.0
    return sum(
        max(0, epochs_expected(spec) - so_far(root, spec)[0]) * operations(spec) / rate for spec in specs
    )


def epochs_expected(spec: RunSpec) -> float:
    """Return how many epochs a run will take: what the published ones took; for subsets, what ours did.

    Small subsets were memorised after about 20 epochs without noise and 100 with p = 0.8.
    """
    degree = 0.4 if spec.corruption is None else spec.corruption
    guess = 20 + 100 * degree
    if spec.subset is None:
        rows = published.training()
        same = rows[(rows["pair"] == spec.pair) & ((rows["corruption"] - degree).abs() < 0.11)]
        guess = float(same["last_epoch"].mean()) if len(same) else 200.0
    return min(guess, spec.recipe.max_epochs) if spec.recipe.target <= 1 else spec.recipe.max_epochs


def _operations_a_second() -> float:
    """Return the rate of one thread's float32 matrix products."""
    x = torch.ones(1024, 1024)
    with one_thread():
        x @ x
        start = time.perf_counter()
        for _ in range(3):
            x @ x
        return 3 * 2 * 1024**3 / (time.perf_counter() - start)
