"""Result of an audit, in the user's class names and row order."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from layerprobe.auditing.dataset.labelled import Classes, LabelledDataset, read_rows
from layerprobe.auditing.features import NetworkReader, check_matrix
from layerprobe.auditing.findings import MARGIN, Findings, RepairedLabels, Verdict, find_issues, relabel
from layerprobe.auditing.method.noise import NoiseEstimate
from layerprobe.auditing.retraining import RetrainedNetwork, ValidationRows, retrain
from layerprobe.auditing.saving import read_audit, write_audit
from layerprobe.errors import InputError, LayerprobeError
from layerprobe.layers.batches import count_rows, named_tensors
from layerprobe.utils.settings import default_settings


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """Result of :func:`layerprobe.audit` and :func:`layerprobe.audit_features`.

    Attributes
    ----------
    findings : Findings
        Ensemble, calibration, noise and tables.
    y : Tensor (n,), int64
        Class indices of the given labels.
    index : ndarray of shape (n,)
        Names of the rows.
    class_set : Classes
        Class names and their indices.
    policy : str
        The selection policy.
    verdict_ : Verdict
        The recommendation with its reasons.
    settings : dict
        Arguments of the audit.
    cost : dict of str to float
        Seconds per step.
    reader : NetworkReader or None
        Runs the network for new rows; None for an audit of features.
    rows : LabelledDataset or None
        The training rows; None after `load`, and for an audit of features.
    held_out_rows : LabelledDataset or None
        The held-out rows of the policy.
    """

    findings: Findings
    y: Tensor
    index: np.ndarray
    class_set: Classes
    policy: str
    verdict_: Verdict
    settings: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    reader: NetworkReader | None = None
    rows: LabelledDataset | None = None
    held_out_rows: LabelledDataset | None = None

    def __repr__(self) -> str:
        return f"Audit of {self.n} rows: {self.finding}"

    @property
    def decided(self) -> Findings:
        """Deprecated name of `findings`."""
        warnings.warn("Audit.decided is deprecated: use Audit.findings.", DeprecationWarning, stacklevel=2)
        return self.findings

    @property
    def n(self) -> int:
        """Number of training rows."""
        return len(self.y)

    @property
    def classes(self) -> np.ndarray:
        """Names of the classes, (K,)."""
        return self.class_set.names

    @property
    def finding(self) -> str:
        """The result in one sentence."""
        return self.verdict_.finding

    @property
    def verdict(self) -> str:
        """The recommendation, "repair" or "keep"."""
        return self.verdict_.verdict

    @property
    def why(self) -> str:
        """The reasons of the verdict."""
        return self.verdict_.why

    @property
    def layers(self) -> pd.DataFrame:
        """One row per candidate, best first.

        Columns: layer, probe, strength (the hyperparameter); criterion, the accuracy on the rows of the
        policy, with its 95 % interval low, high; gain over the head, with gain_low, gain_high; chosen,
        whether it is a member of the decoder; why. Intervals do not account for the choice among candidates.
        """
        return self.findings.layers

    @property
    def controls(self) -> pd.DataFrame:
        """One row per baseline, the decoder last: control, criterion, low, high, beaten."""
        return self.findings.controls

    @property
    def noise(self) -> NoiseEstimate:
        """Estimated label noise."""
        return self.findings.noise

    @property
    def scores(self) -> Tensor:
        """Class scores of the training rows, each by the fit without it, (n, K)."""
        return self.findings.scores

    @cached_property
    @default_settings()
    def posterior(self) -> Tensor:
        """P(true class | row, given label), (n, K)."""
        return self.findings.calibration.posterior(self.scores, self.y)

    @cached_property
    @default_settings()
    def pred_probs(self) -> np.ndarray:
        """P(true class | row), (n, K), by the fit without the row; cleanlab's `pred_probs`."""
        return self.findings.calibration.probabilities(self.scores).numpy()

    @cached_property
    @default_settings()
    def _issues(self) -> tuple[pd.DataFrame, float]:
        return find_issues(self.scores, self.posterior, self.y, self.index, self.classes)

    @property
    def issues(self) -> pd.DataFrame:
        """One row per training row, in their order.

        Columns: index; given_label; suggested_label; label_score, the probability that the given label is
        right; is_label_issue; margin, the score of the given label minus the best other score.
        """
        return self._issues[0].copy()

    @property
    def expected_precision(self) -> float:
        """Expected share of wrong labels among the flagged ones; NaN without flags."""
        return self._issues[1]

    def issue_mask(self) -> np.ndarray:
        """Return the flags in row order, (n,) bool."""
        return self.issues["is_label_issue"].to_numpy()

    def issue_indices(self) -> np.ndarray:
        """Return the names of the flagged rows, lowest label score first."""
        flagged = self.issues[self.issues["is_label_issue"]]
        return flagged.sort_values("label_score", kind="stable")["index"].to_numpy()

    def example(self, i: int) -> np.ndarray | str | None:
        """Return row i for display: an image, a text, or None for other data."""
        return None if self.rows is None else self.rows.example(i)

    @default_settings()
    def predict_scores(self, x: Any) -> np.ndarray:
        """Return class scores of new rows.

        Parameters
        ----------
        x
            Inputs in the form of the training data, with or without labels; for an audit of features, a
            mapping of layer to outputs (m, d).

        Returns
        -------
        ndarray of shape (m, K)

        Raises
        ------
        InputError
            If the rows do not fit the network or the layers, or the audit was loaded without its network.
        """
        ensemble = self.findings.ensemble
        if self.reader is None:
            dims = {m.candidate.layer: m.probe.n_features_in_ for m in ensemble.members}
            missing = [layer for layer in dims if not isinstance(x, Mapping) or layer not in x]
            if missing:
                raise InputError(
                    f"expected a mapping of layer to outputs with the layers {', '.join(dims)}; "
                    f"{', '.join(missing)} missing"
                )
            outputs = {k: check_matrix(x[k], f"outputs of layer {k!r}", d) for k, d in dims.items()}
            return ensemble.scores(outputs).numpy()
        if self.reader.model is None:
            raise InputError("this audit was loaded without its network: Audit.load(path, model) predicts")
        rows = self._unlabelled(x)
        try:
            outputs = self.reader.read(rows, layers=ensemble.layers).mean
        except LayerprobeError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            expected, got = _shape(self.reader.blank), _shape(next(rows.batches(1))[0])
            raise InputError(
                f"the network cannot take these rows: expected {expected} as in training, got {got} ({error})"
            ) from error
        return ensemble.scores(outputs).numpy()

    def predict_proba(self, x: Any) -> np.ndarray:
        """Return class probabilities (m, K) of new rows; `x` as for `predict_scores`."""
        scores = torch.from_numpy(self.predict_scores(x))
        return self.findings.calibration.probabilities(scores).numpy()

    def predict(self, x: Any) -> np.ndarray:
        """Return labels (m,) of new rows; `x` as for `predict_scores`."""
        return self.classes[self.predict_scores(x).argmax(1)]

    @default_settings()
    def relabel(
        self, policy: str = "confident", *, margin: float = MARGIN, force: bool = False
    ) -> RepairedLabels:
        """Return a repaired label set.

        Parameters
        ----------
        policy : {"confident", "all", "soft", "prune"}
            "confident": the suggestion where it is more likely than the given label by `margin`. "all": the
            prediction for every row, as in the paper. "soft": probabilities. "prune": the given labels
            without the flagged rows.
        margin : float
            Of "confident".
        force : bool
            Repair even if the verdict is "keep"; otherwise the labels are then returned unchanged, with the
            policy "keep".
        """
        probabilities, flags = torch.from_numpy(self.pred_probs), torch.from_numpy(self.issue_mask().copy())
        repaired = relabel(policy, probabilities, self.posterior, self.y, flags, self.classes, margin=margin)
        if self.verdict == "repair" or force:
            return repaired
        return relabel("keep", probabilities, self.posterior, self.y, flags, self.classes)

    @default_settings()
    def retrain(self, labels: RepairedLabels | None = None, **options: Any) -> RetrainedNetwork:
        """Train a copy of the network on repaired labels, by default the soft ones.

        Parameters
        ----------
        labels : RepairedLabels, optional
            Result of `relabel`.
        **options
            As for :func:`layerprobe.auditing.retraining.retrain`.

        Raises
        ------
        InputError
            If the labels were not repaired (the verdict is "keep") or belong to other rows, the audit holds
            no network, or training is not possible.
        """
        model, rows = self.training_rows()
        labels = self.relabel("soft") if labels is None else labels
        if labels.policy == "keep":
            raise InputError(
                f"nothing was repaired, since the audit says: keep your labels ({self.why}). To train on "
                "repaired labels all the same pass audit.relabel(..., force=True)"
            )
        if labels.targets.shape != (self.n, len(self.classes)):
            raise InputError(
                f"expected labels of the {self.n} rows and {len(self.classes)} classes of the audit, got "
                f"targets of the shape {labels.targets.shape}"
            )
        validation = None
        if (held_out := self.held_out_rows) is not None:
            y = self.class_set.indices(held_out.labels, "labels of the held-out rows")
            validation = ValidationRows(held_out, y, self.policy)
        return retrain(model, rows, labels, validation, **options)

    @default_settings()
    def edit_head(self, probe: Any = "ridge", **options: Any) -> nn.Module:
        """Return a copy of the network whose last layer is a linear probe of the last hidden layer.

        The probe is fitted on the given labels.

        Parameters
        ----------
        probe : str or Probe
        **options
            As for :func:`layerprobe.edit_head`.
        """
        from layerprobe.editing import edit_head

        model, rows = self.training_rows()
        batches = ((x, self.y[torch.from_numpy(positions)]) for x, positions in rows.batches())
        return edit_head(model, batches, probe, **options)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write the audit as one self-contained HTML file."""
        from layerprobe.auditing.report.page import write_page

        write_page(self, Path(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the audit, without the network and the rows, as one safetensors file.

        Raises
        ------
        InputError
            If the decoder has probes, or the classes have names, that cannot be stored.
        DataError
            If the file cannot be written.
        """
        write_audit(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module | None = None, **functions: Any) -> Self:
        """Read a saved audit.

        Parameters
        ----------
        path : path
        model : nn.Module, optional
            The audited network, which only predictions need.
        **functions
            The arguments `views`, `pool` and `inputs` of :func:`layerprobe.audit`, if they were functions.

        Returns
        -------
        Audit
            With equal numbers, but without rows: it cannot show or repair them.

        Raises
        ------
        DataError
            If the file is missing, damaged or of another kind.
        InputError
            If functions are missing or differ, or the network has other layers or weights.
        """
        return cls(**read_audit(path, model, **functions))

    def training_rows(self) -> tuple[nn.Module, LabelledDataset]:
        """Return the network and its training rows; raise if the audit holds none."""
        if self.rows is None or self.reader is None or self.reader.model is None:
            raise InputError(
                "this audit holds no network and rows: it was loaded from a file or made of features; audit "
                "the network again to repair it"
            )
        return self.reader.model, self.rows

    def _unlabelled(self, x: Any) -> LabelledDataset:
        if isinstance(x, LabelledDataset):
            return x
        inputs = self.settings.get("inputs")
        if isinstance(x, Mapping):  # of whole arrays; without names, so that the rows keep their order
            x = {key: value for key, value in x.items() if key not in ("labels", "label", "index")}
            return read_rows(x, np.zeros(count_rows(x) or 0, np.int64), inputs=inputs)
        if isinstance(x, np.ndarray | Tensor) or (isinstance(x, list) and x and isinstance(x[0], str)):
            return read_rows(x, np.zeros(len(x), np.int64), inputs=inputs)
        return read_rows(x, inputs=inputs)


def _shape(x: Any) -> str:
    """Describe the shape of one row of a batch of inputs."""
    shapes = [f"{name or 'x'} {tuple(tensor.shape[1:])}" for name, tensor in named_tensors(x)]
    return ", ".join(shapes) or "no tensor"
