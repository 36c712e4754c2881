"""What the network's own output gets right, beside the probes of its layers."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from layerprobe.layerwise.scoring import Truth
from layerprobe.utils.distributed import sum_over_processes

__all__ = ["Logits", "NetworkTally"]


class Logits:
    """Flattens the model's output as any other, and remembers whether it was one score a class, (n, K)."""

    one_a_class = False

    def __call__(self, output: Tensor) -> Tensor:
        """Give a row of features for each row."""
        self.one_a_class = output.ndim == 2 and output.shape[1] > 1
        return output[:, None] if output.ndim == 1 else output.flatten(1)


@dataclass
class NetworkTally:
    """How many rows of a split the network gets right, by each set of labels."""

    sets: int
    rows: int = 0
    right: list[int] = field(init=False)
    strange: list[int] = field(init=False)  # labels that the network has no score for

    def __post_init__(self) -> None:
        self.right, self.strange = [0] * self.sets, [0] * self.sets

    def count(self, answers: Tensor, K: int, truth: Truth) -> None:
        """Count rows, of which the network's answers are the outputs 0..K-1, (n,)."""
        predicted = answers.cpu().numpy()
        self.rows += len(predicted)
        for s, labels in enumerate(truth.labels):
            if labels.dtype.kind in "iu":
                self.right[s] += int((predicted == labels).sum())
                self.strange[s] += int(((labels < 0) | (labels >= K)).sum())
            else:
                self.strange[s] += len(labels)

    def sum_over_processes(self) -> None:
        """Add the counts of the other processes of the job."""
        mine = torch.tensor([self.rows, *self.right, *self.strange], dtype=torch.int64)
        self.rows, *counts = sum_over_processes(mine).tolist()
        self.right, self.strange = counts[: self.sets], counts[self.sets :]

    def accuracies(self) -> list[float | None]:
        """Give the accuracy by each set of labels; None where labels are not the network's classes."""
        return [
            None if strange or not self.rows else right / self.rows
            for right, strange in zip(self.right, self.strange, strict=True)
        ]
