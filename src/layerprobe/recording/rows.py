"""Margins and probabilities of the training rows, as running means over the epochs."""

from collections.abc import Mapping
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.utils.distributed import sum_over_processes, world_size

QUANTITIES = ("margin", "probability", "correct")  # of a row in an epoch


class RowMeans:
    """Running means over the epochs of margin, probability and correctness of n rows.

    A row that occurs several times in an epoch counts with its mean there. A row that does not occur is left
    out of that epoch. Sums are float64.

    Parameters
    ----------
    y : Tensor (n,), int64
        Given labels as class indices.
    full : bool
        Keep margins and probabilities of all epochs, too.
    """

    def __init__(self, y: Tensor, *, full: bool) -> None:
        self.y, self.full = y, full
        n, k = len(y), len(QUANTITIES)
        self.seen = torch.zeros(n, dtype=torch.int64)  # number of epochs in which a row was recorded
        self.means = torch.zeros(k, n, dtype=torch.float64)  # of the QUANTITIES
        self.squares = torch.zeros(n, dtype=torch.float64)  # sum of squared deviations of the probability
        self.record: list[Tensor] = []  # (2, n), float32: margins and probabilities of each epoch, if `full`
        self._sums = torch.zeros(1 + k, n, dtype=torch.float64)  # of this epoch; row 0 counts
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._waiting = 0

    @property
    def counts(self) -> Tensor:
        """Number of occurrences of each row in this epoch, (n,); after `gather`."""
        return self._sums[0]

    @torch.no_grad()
    def add(self, index: Any, logits: Any) -> None:
        """Add a batch to this epoch. Its values stay on the device of the logits until they are needed.

        Parameters
        ----------
        index, logits
            As for `History.update`.
        """
        rows = torch.as_tensor(index if isinstance(index, Tensor) else np.asarray(index)).cpu()
        scores = torch.as_tensor(logits).detach()
        n, integral = len(self.y), not (rows.is_floating_point() or rows.dtype is torch.bool)
        if scores.ndim != 2 or scores.shape[1] < 2 or rows.shape != scores.shape[:1] or not integral:
            one = "; of one logit z per row give torch.nn.functional.pad(z.reshape(-1, 1), (1, 0)), 0 and z"
            raise InputError(
                "expected the positions of b rows and their logits (b, K) of at least two classes, got "
                f"{rows.dtype} {tuple(rows.shape)} and {tuple(scores.shape)}"
                f"{one if scores.numel() == len(scores) else ''}"
            )
        if not len(rows):
            return
        low, high = map(int, rows.aminmax())
        if low < 0 or high >= n:
            raise InputError(f"expected positions of rows in 0..{n - 1}, got {low}..{high}")
        y = self.y[rows.long()]
        if (largest := int(y.max())) >= scores.shape[1]:
            raise InputError(f"the label {largest} is none of the {scores.shape[1]} outputs of the network")
        if not scores.is_floating_point() or scores.itemsize < 4:
            scores = scores.float()
        y = y.to(scores.device, non_blocking=True)[:, None]
        margin = scores.gather(1, y) - scores.scatter(1, y, -torch.inf).amax(1, keepdim=True)
        probability = scores.softmax(1).gather(1, y)
        correct = (scores.argmax(1, keepdim=True) == y).to(scores)
        self._pending.append((rows.long(), torch.cat([margin, probability, correct], 1)))
        self._waiting += len(rows)
        if self._waiting >= n:
            self._flush()

    def gather(self, device: torch.device | None) -> None:
        """Add the batches of this epoch of all processes of the job.

        Parameters
        ----------
        device : torch.device or None
            Device of the messages between the processes.
        """
        self._flush()
        if world_size() > 1:  # a device may have no float64, as Apple's
            self._sums = sum_over_processes(self._sums.to(device)).cpu()

    def clear(self) -> None:
        """Remove the batches of this epoch."""
        self._pending.clear()
        self._waiting = 0
        self._sums.zero_()

    def end_epoch(self) -> tuple[int, float]:
        """Update the means, and return the number of rows of this epoch and the share that was correct."""
        rows = self.counts > 0
        values = self._sums[1:, rows] / self.counts[rows]  # (3, r)
        self.seen[rows] += 1
        deviation = values - self.means[:, rows]
        self.means[:, rows] += deviation / self.seen[rows]
        self.squares[rows] += deviation[1] * (values[1] - self.means[1, rows])  # Welford (1962)
        if self.full:
            record = torch.full((2, len(rows)), nan)
            record[:, rows] = values[:2].float()
            self.record.append(record)
        self._sums.zero_()
        return int(rows.sum()), float(values[2].mean())

    def tensors(self) -> dict[str, Tensor]:
        """Return the complete epochs, to be saved."""
        tensors = {"labels": self.y, "seen": self.seen, "means": self.means, "squares": self.squares}
        if self.full:
            tensors["record"] = torch.stack([torch.empty(2, len(self.y)), *self.record])[1:]
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the result of `tensors`.

        Raises
        ------
        ValueError
            If it does not have these shapes and types.
        """
        for name in ("seen", "means", "squares"):
            own, saved = getattr(self, name), tensors[name]
            if saved.shape != own.shape or saved.dtype != own.dtype:
                raise ValueError(f"{name} {saved.dtype} {tuple(saved.shape)}")
            own.copy_(saved)
        if self.full:
            self.record = [part.float().reshape(2, len(self.y)) for part in tensors["record"]]

    def _flush(self) -> None:
        """Add the pending batches to the sums."""
        if self._pending:
            rows = torch.cat([part for part, _ in self._pending])
            values = torch.cat([part.cpu().double() for _, part in self._pending]).T  # (3, b)
            self._sums.index_add_(1, rows, torch.cat([torch.ones_like(values[:1]), values]))
            self._pending.clear()
            self._waiting = 0
