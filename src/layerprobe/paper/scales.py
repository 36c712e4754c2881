"""The two scales of a reproduction: the paper's own, and a small one that two cores finish.

`small` trains the same networks on a fixed, class-balanced subset of the training images, with fewer seeds
and with optimiser settings of its own that memorise so few images quickly. Its numbers are honest and not the
paper's: whatever is drawn or written from them says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layerprobe.paper.pairs import PAIRS
from layerprobe.runs.specs import RunSpec

__all__ = ["DEGREES", "PAPER_PAIRS", "SCALES", "StudyScale"]

DEGREES = (0.2, 0.4, 0.6, 0.8)  # of Table 1; figures add 0 and 1
PAPER_PAIRS = tuple(name for name in PAIRS if name != "mlp-digits")


@dataclass(frozen=True)
class StudyScale:
    """How large the runs of a study are.

    Attributes
    ----------
    name : {"small", "full"}
    seeds : int
        Independent seeds of each cell, of pairs without an entry of their own in `settings`.
    settings : mapping of str to mapping
        What differs from a pair's own recipe and data: keywords of `RunSpec.of`, and possibly "seeds".
    """

    name: str
    seeds: int
    settings: Mapping[str, Mapping[str, Any]]

    def seeds_of(self, pair: str) -> range:
        """Return the seeds of a pair's cells."""
        return range(self.settings.get(pair, {}).get("seeds", self.seeds))

    def spec(self, pair: str, corruption: float | None, seed: int, **changes: Any) -> RunSpec:
        """Return a run of this scale; `changes` are further keywords of `RunSpec.of`."""
        own = {name: value for name, value in self.settings.get(pair, {}).items() if name != "seeds"}
        return RunSpec.of(pair, corruption, seed, **{**own, **changes})


_MLP = {"subset": 1000, "test_subset": 2000, "learning_rate": 1e-2, "target": 0.99}
_CNN = {"subset": 1000, "test_subset": 2000, "learning_rate": 1e-3, "batch_size": 64, "target": 0.99}
# Long on a plateau, which small batches leave after fewer images.
_ALEXNET = {"test_subset": 1000, "learning_rate": 5e-4, "batch_size": 25, "target": 0.99, "seeds": 1}
SCALES = {
    "full": StudyScale("full", 3, {}),
    "small": StudyScale(
        "small",
        2,
        {
            "mlp-mnist": _MLP,
            "mlp-cifar10": _MLP,
            "cnn-mnist": _CNN,
            "cnn-fashion-mnist": _CNN,
            "cnn-cifar10": _CNN,
            "alexnet-cifar100": {**_ALEXNET, "subset": 1000},
            # Of its 200 classes the first 20, so that a class has more images than two or three.
            "alexnet-tiny-imagenet": {**_ALEXNET, "subset": 500, "options": {"num_classes": 20}},
            "resnet18-cifar10": {
                "subset": 500,
                "test_subset": 500,
                "learning_rate": 1e-2,
                "target": 0.99,
                "seeds": 1,
            },
            # Not the paper's: for trying everything out within a minute.
            "mlp-digits": {"subset": 300, "test_subset": 200, "target": 0.99},
        },
    ),
}
