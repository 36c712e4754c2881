"""What audits of networks and of features share: an order of the rows, a clock, and the result."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.dataset.labels import Classes
from layerprobe.auditing.features import Features
from layerprobe.auditing.method.policies import MOST_ROWS, Jury
from layerprobe.auditing.method.verdict import judge
from layerprobe.auditing.pipeline import decide
from layerprobe.auditing.relabelling import relabel
from layerprobe.auditing.result import Audit

__all__ = ["Clock", "assemble", "canonical", "judging_rows"]


def assemble(
    clock: "Clock",
    train: Features,
    codes: Tensor,
    order: np.ndarray,
    jury: Jury,
    measure: Jury,
    probes: Mapping[str, Any],
    fingerprints: np.ndarray,
    untrained: Callable[[], tuple[Features, Jury] | None],
    *,
    history: Sequence[float] | None,
    classes: Classes,
    policy: str,
    seed: int,
    settings: dict[str, Any],
    **fields: Any,
) -> Audit:
    """Decide, and put what was decided into the user's terms."""
    decided = decide(
        train,
        codes[torch.from_numpy(order)],
        jury,
        measure,
        probes,
        fingerprints[order],
        untrained,
        history=history,
        seed=seed,
        timer=clock,
    )
    clock("verdict")
    posterior = decided.calibration.posterior(decided.scores, codes[torch.from_numpy(order)])
    nothing = torch.zeros(len(codes), dtype=torch.bool)
    repaired = relabel(
        "confident", posterior, posterior, codes[torch.from_numpy(order)], nothing, classes.names
    )
    verdict = judge(decided, repaired.wrong_after, repaired.wrong_before)
    clock(None)
    settings = {"policy": policy, "probes": list(probes), "seed": seed, **settings}
    return Audit(
        decided,
        order,
        codes,
        named=classes,
        policy=policy,
        verdict_=verdict,
        settings=settings,
        cost=clock.seconds,
        **fields,
    )


class Clock:
    """Tells the user what is being done, and keeps the time of each step."""

    def __init__(self, progress: Callable[[str], object] | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._step: str | None = None
        self._since = time.perf_counter()

    def __call__(self, step: str | None) -> None:
        """End the step before, and begin this one if there is one."""
        now = time.perf_counter()
        if self._step is not None:
            self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._since
        self._step, self._since = step, now
        if step is not None and self.progress is not None:
            self.progress(step)


def canonical(fingerprints: np.ndarray, codes: Tensor) -> np.ndarray:
    """Return an order of the rows that depends on their content and labels alone."""
    return np.lexsort((codes.numpy(), fingerprints))


def judging_rows(n: int) -> np.ndarray:
    """Return the positions, in that order, of the rows whose views judge: all, or an even choice."""
    return np.arange(n) if n <= MOST_ROWS else np.linspace(0, n - 1, MOST_ROWS).round().astype(np.int64)
