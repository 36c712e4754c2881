"""What an audit found, in the user's names and in the order of her rows."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from layerprobe.auditing.dataset.labelled import LabelledDataset
from layerprobe.auditing.dataset.labels import Classes
from layerprobe.auditing.dataset.readers import read_rows
from layerprobe.auditing.features import Reader, layer_outputs
from layerprobe.auditing.issues import find_issues
from layerprobe.auditing.method.noise import Noise
from layerprobe.auditing.method.verdict import Verdict
from layerprobe.auditing.pipeline import Decided
from layerprobe.auditing.relabelling import MARGIN, Relabelled, relabel
from layerprobe.errors import InputError, LayerprobeError
from layerprobe.layers.batches import count_rows, named_tensors

if TYPE_CHECKING:
    from layerprobe.auditing.retraining import Repaired

__all__ = ["Audit"]


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """The audit of a network; :func:`layerprobe.audit` makes it.

    Attributes
    ----------
    decided : Decided
        What was found, rows in an order of their own.
    order : ndarray of shape (n,), int64
        Row i of `decided` is the user's row ``order[i]``.
    given : Tensor (n,), int64
        Codes of the given labels in the user's order.
    index : ndarray of shape (n,)
        Names of the rows.
    named : Classes
    policy : str
        By which layer, probe and strength were chosen.
    verdict_ : Verdict
        Whether the evidence is good enough to act upon.
    settings : dict
        How the audit was made.
    cost : dict of str to float
        Seconds of each step.
    reader : Reader or None
        Runs the network for new rows; None for an audit of features.
    rows : LabelledDataset or None
        The training rows; None after `load`, and for features.
    jury_rows : LabelledDataset or None
        The rows that judged, if they are not views of the training rows.
    """

    decided: Decided
    order: np.ndarray
    given: Tensor
    index: np.ndarray
    named: Classes
    policy: str
    verdict_: Verdict
    settings: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    reader: Reader | None = None
    rows: LabelledDataset | None = None
    jury_rows: LabelledDataset | None = None

    def __repr__(self) -> str:
        return f"Audit of {self.n} rows: {self.finding}"

    @property
    def n(self) -> int:
        """Number of training rows."""
        return len(self.given)

    @property
    def classes(self) -> np.ndarray:
        """Names of the classes, (K,)."""
        return self.named.names

    @property
    def finding(self) -> str:
        """The result in one sentence."""
        return self.verdict_.finding

    @property
    def verdict(self) -> str:
        """Either "repair" or "keep"."""
        return self.verdict_.verdict

    @property
    def why(self) -> str:
        """The reasons of the verdict."""
        return self.verdict_.why

    @property
    def layers(self) -> pd.DataFrame:
        """One row a candidate, best first.

        layer, probe, strength; criterion, its accuracy on the policy's rows, with the 95 % interval low to
        high; gain over the head there, with gain_low to gain_high; chosen, whether it is a member of the
        decoder; why. Intervals are over rows and know nothing of the choice among candidates.
        """
        return self.decided.layers

    @property
    def controls(self) -> pd.DataFrame:
        """One row a control, the decoder last: control, criterion, low, high, beaten beyond the interval."""
        return self.decided.controls

    @property
    def noise(self) -> Noise:
        """Estimated noise of the labels."""
        return self.decided.noise

    @cached_property
    def scores(self) -> Tensor:
        """The decoder's scores of the training rows, each by the fit without it, (n, K)."""
        return self._in_user_order(self.decided.scores)

    @cached_property
    def posterior(self) -> Tensor:
        """P(true class | row, given label), (n, K)."""
        return self.decided.calibration.posterior(self.scores, self.given)

    @cached_property
    def pred_probs(self) -> np.ndarray:
        """P(true class | row) by the fit without the row, (n, K): what cleanlab calls `pred_probs`."""
        return self.decided.calibration.probabilities(self.scores).numpy()

    @cached_property
    def _found(self) -> tuple[pd.DataFrame, float]:
        return find_issues(self.scores, self.posterior, self.given, self.index, self.classes)

    @property
    def issues(self) -> pd.DataFrame:
        """One row a training row, in their order.

        index; given_label; suggested_label; label_score, the probability that the given label is right;
        is_label_issue; margin, the decoder's score for the given label less that for the best other.
        """
        return self._found[0].copy()

    @property
    def expected_precision(self) -> float:
        """The share of the flagged labels that is expected to be wrong; NaN without flags."""
        return self._found[1]

    def issue_mask(self) -> np.ndarray:
        """Return the flags in row order, (n,) bool."""
        return self.issues["is_label_issue"].to_numpy()

    def issue_indices(self) -> np.ndarray:
        """Names of the flagged rows, the most suspicious first."""
        flagged = self.issues[self.issues["is_label_issue"]]
        return flagged.sort_values("label_score", kind="stable")["index"].to_numpy()

    def example(self, i: int) -> np.ndarray | str | None:
        """Return what a person sees of row i: an image, a text, or None where there is nothing to see."""
        return None if self.rows is None else self.rows.example(i)

    def predict_scores(self, x: Any) -> np.ndarray:
        """Score every class for new rows.

        Parameters
        ----------
        x
            Inputs as they were given for training, with or without labels; or layer outputs, a mapping of
            layer to (m, d), for an audit of features.

        Returns
        -------
        ndarray of shape (m, K)
            The largest wins.
        """
        if self.reader is None:
            wanted = {m.candidate.layer: m.probe.n_features_in_ for m in self.decided.decoder.members}
            return self.decided.decoder.scores(layer_outputs(x, wanted)).numpy()
        if self.reader.model is None:
            raise InputError("this audit was loaded without its network: Audit.load(path, model) predicts")
        rows = self._unlabelled(x)
        decoder = self.decided.decoder
        reader = self.reader.of_layers(decoder.layers)
        try:
            outputs = reader.read(rows).mean
        except LayerprobeError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            expected, got = _shape(self.reader.blank), _shape(next(rows.batches(1))[0])
            raise InputError(
                f"the network cannot take these rows: expected {expected} as in training, got {got} ({error})"
            ) from error
        return decoder.scores(outputs).numpy()

    def predict_proba(self, x: Any) -> np.ndarray:
        """Return class probabilities (m, K) of new rows; `x` as for `predict_scores`."""
        return self.decided.calibration.probabilities(torch.from_numpy(self.predict_scores(x))).numpy()

    def predict(self, x: Any) -> np.ndarray:
        """Return labels (m,) of new rows; `x` as for `predict_scores`."""
        return self.classes[self.predict_scores(x).argmax(1)]

    def relabel(
        self, policy: str = "confident", *, margin: float = MARGIN, force: bool = False
    ) -> Relabelled:
        """Return a repaired label set.

        Parameters
        ----------
        policy : {"confident", "all", "soft", "prune"}
            "confident": the suggestion where it is likelier than the given label by `margin`. "all": the
            decoder's prediction for every row, as in the paper. "soft": probabilities. "prune": flagged rows
            are left out.
        margin : float
            Of "confident".
        force : bool
            Repair even where the verdict is "keep"; otherwise the labels come back as they are, with the
            policy "keep".
        """
        chosen = relabel(
            policy,
            torch.from_numpy(self.pred_probs),
            self.posterior,
            self.given,
            torch.from_numpy(self.issue_mask().copy()),
            self.classes,
            margin=margin,
        )
        if self.verdict == "repair" or force:
            return chosen
        nothing = torch.zeros(self.n, dtype=torch.bool)
        return relabel("keep", self.posterior, self.posterior, self.given, nothing, self.classes)

    def retrain(self, labels: Relabelled | None = None, **options: Any) -> "Repaired":
        """Train a copy of the network on repaired labels, by default the soft ones.

        See :func:`layerprobe.auditing.retraining.retrain` for its options.
        """
        from layerprobe.auditing.retraining import retrain

        return retrain(self, self.relabel("soft") if labels is None else labels, **options)

    def edit_head(self, probe: Any = "ridge", **options: Any) -> nn.Module:
        """Return a copy of the network whose last layer is a linear probe of the last hidden layer.

        Fitted on the given labels; see :func:`layerprobe.edit_head`.
        """
        from layerprobe.editing import edit_head

        model, rows = self.training_rows()
        given = self.given
        batches = ((x, given[torch.from_numpy(p)]) for x, p in rows.batches())
        return edit_head(model, batches, probe, **options)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write everything as one self-contained HTML file."""
        from layerprobe.auditing.report.page import write_page

        write_page(self, Path(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the audit, without the network and the rows, into one safetensors file."""
        from layerprobe.auditing.saving import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module | None = None, **options: Any) -> "Audit":
        """Read what `save` wrote; see :func:`layerprobe.auditing.saving.load`."""
        from layerprobe.auditing.saving import load

        return load(path, model, **options)

    def training_rows(self) -> tuple[nn.Module, LabelledDataset]:
        """Return the network and the rows that it was trained on, or say that this audit has none."""
        if self.rows is None or self.reader is None or self.reader.model is None:
            raise InputError(
                "this audit holds no network and rows: it was loaded from a file or made of features; audit "
                "the network again to repair it"
            )
        return self.reader.model, self.rows

    def _in_user_order(self, values: Tensor) -> Tensor:
        result = torch.empty_like(values)
        result[torch.from_numpy(self.order)] = values
        return result

    def _unlabelled(self, x: Any) -> LabelledDataset:
        if isinstance(x, LabelledDataset):
            return x
        inputs = self.settings.get("inputs")
        if isinstance(x, Mapping):  # of whole arrays: rows stay in their order, whatever their names
            x = {key: value for key, value in x.items() if key not in ("labels", "label", "index")}
            return read_rows(x, np.zeros(count_rows(x) or 0, np.int64), inputs=inputs)
        if isinstance(x, np.ndarray | Tensor) or (isinstance(x, list) and x and isinstance(x[0], str)):
            return read_rows(x, np.zeros(len(x), np.int64), inputs=inputs)
        return read_rows(x, inputs=inputs)


def _shape(x: Any) -> str:
    """Say what a row of a batch of inputs looks like."""
    shapes = [f"{name or 'x'} {tuple(tensor.shape[1:])}" for name, tensor in named_tensors(x)]
    return ", ".join(shapes) or "no tensor"
