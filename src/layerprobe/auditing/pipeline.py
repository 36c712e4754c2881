"""The audit from labels to flags: START HERE.

1. `audit` reads the rows and runs the network: the layer outputs of each row. `audit_features` takes them as
   given, and `audit_predictions` takes class scores.
2. `_find` selects an ensemble of probes by the rows of the policy. It scores each training row by the fit
   without this row, converts the scores to probabilities, and estimates the noise of the labels.
3. `Audit` flags the labels that are most likely wrong, about as many as are expected to be wrong.

The functions of step 2 come first, and then the entry points.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.auditing.arrays import (
    FEATURES,
    PREDICTIONS,
    GivenScores,
    features_of_arrays,
    features_of_predictions,
)
from layerprobe.auditing.dataset.conflicts import find_conflicts
from layerprobe.auditing.dataset.labelled import rows_to_show
from layerprobe.auditing.features import (
    AuditFeatures,
    AuditOptions,
    AuditPlan,
    FlagRule,
    NetworkInputs,
)
from layerprobe.auditing.findings import Findings
from layerprobe.auditing.method.calibration import evenly_spaced
from layerprobe.auditing.method.ensemble import (
    DEFAULT_PROBES,
    Candidate,
    CandidateScore,
    EnsembleMember,
    ProbeEnsemble,
    fit_candidate,
    score_candidates,
    select_members,
)
from layerprobe.auditing.method.noise import LabelFreeScorer, estimate_noise
from layerprobe.auditing.method.policies import (
    LABEL_FREE,
    OUT_OF_SAMPLE,
    POLICIES,
    SelectionSet,
    baseline_table,
    candidate_table,
    interval,
    measure_baselines,
    selection_sets,
)
from layerprobe.auditing.result import Audit
from layerprobe.auditing.saving import check_sendable, receive_audit, send_audit
from layerprobe.errors import LayerprobeWarning, warn
from layerprobe.layers.capturing import Pool
from layerprobe.layers.views import View, resolve_views
from layerprobe.recording.history import History
from layerprobe.utils.distributed import rank, world_size
from layerprobe.utils.progress import report_step, shows_progress
from layerprobe.utils.settings import default_settings

LIKE_TRAINING = 0.99  # share of given labels that a model predicts for the rows that it was trained on

# From layer outputs to findings -------------------------------------------------------------------------


def _find(features: AuditFeatures, options: AuditOptions, timer: "_StepTimer") -> Findings:
    """Apply the method to layer outputs of n rows with K classes; y (n,) are the given labels."""
    train, y, hashes = features.train.features, features.train.y, features.train.hashes
    # Two sets of rows: one selects the candidates, one measures the selection.
    held_out = features.others.get(options.selecting)
    selection, measurement = selection_sets(options.policy, features.train, held_out)
    untrained = None
    if features.untrained is not None:
        _, untrained = selection_sets(options.policy, *features.untrained)

    timer.start("label-free layers")
    label_free = LabelFreeScorer.select(_label_free_layers(features), y, seed=options.seed)
    if selection.of_training_rows and label_free is not None:
        posterior = label_free.posterior[train.kept]
        views = selection.least_memorised_views(posterior)
        selection = measurement = selection.corrected_for_memorisation(views, posterior)
        if untrained is not None:
            untrained = untrained.corrected_for_memorisation(views, posterior)

    timer.start("candidates")  # every probe on every layer at every value of its hyperparameter
    fitted_on, fitted_y = selection.fitted_on, selection.fitted(y)
    scored = score_candidates(options.probes, fitted_on, fitted_y, selection.views, selection.correct)

    timer.start("selection")  # of the members of an ensemble, the decoder
    members = select_members(scored, selection.correct)
    candidates = [member.candidate for member in members]

    timer.start("decoder")  # out_of_fit (n, K): the scores of each training row by the fit without it
    ensemble, out_of_fit = ProbeEnsemble.fit(candidates, options.probes, train.mean, y, hashes)
    measured = ensemble
    if train.mean is not fitted_on:  # its means contain views that measure: fit again without these
        fitted_hashes = selection.fitted(hashes)
        measured, _ = ProbeEnsemble.fit(candidates, options.probes, fitted_on, fitted_y, fitted_hashes)
    scores = [measured.scores(view) for view in measurement.views]
    correct = measurement.correct(scores)

    timer.start("controls")  # cheaper predictors that the ensemble must beat
    baselines = measure_baselines(
        measurement,
        y,
        input_correct=_input_correct(measurement, scored, y, options),
        untrained=untrained,
        history=options.history,
    )

    timer.start("noise")  # and the calibration, from scores to probabilities
    best = candidates[0].layer
    noisy, near = measurement, None if label_free is None else (label_free.X, y)
    if options.policy == LABEL_FREE:  # the scores of all training rows are out of sample
        (scores, noisy), near = _own_rows(out_of_fit, y), (train.mean[best], y)
    elif measurement.noisy_and_new:
        near = measurement.views[0][best], measurement.y
    right = None
    if options.selecting == "holdout" and (trusted := features.others.get("trusted")) is not None:
        right = measured.scores(trusted.features.mean).argmax(1) == trusted.y
    calibration, noise = estimate_noise(
        scores, noisy, out_of_fit, y, label_free, neighbours=near, trusted=right, seed=options.seed
    )
    head = measurement.head_correct
    return Findings(
        ensemble,
        out_of_fit,
        calibration,
        noise,
        criterion=interval(correct),
        gain=None if head is None else interval(correct - head, difference=True),
        head_fit=float("nan") if train.logits is None else _share(train.logits.argmax(1) == y),
        frequent=float(y.bincount().max() / len(y)),
        layers=candidate_table(scored, members, selection.head_correct),
        controls=baseline_table(baselines, correct),
    )


def _label_free_layers(features: AuditFeatures) -> dict[str, Tensor]:
    """Return the outputs (n, d) of layers that do not depend on the labels: the input, an untrained copy."""
    own = features.train.features.mean
    layers = {"the raw input": own["input"]} if "input" in own else {}
    if features.untrained is not None:
        outputs = features.untrained[0].features.mean
        layers |= {f"layer {k} of an untrained copy": X for k, X in outputs.items() if k != "input"}
    return layers


def _input_correct(
    measurement: SelectionSet, scored: Sequence[CandidateScore], y: Tensor, options: AuditOptions
) -> Tensor | None:
    """Return the correctness (m,) of the best candidate on the raw input; None without this layer."""
    on_input = [one for one in scored if one.candidate.layer == "input"]
    if not on_input:
        return None
    best = max(on_input, key=lambda one: one.criterion).candidate
    X = measurement.fitted_on["input"]
    probe = fit_candidate(best, options.probes[best.probe], X, measurement.fitted(y))
    return measurement.correct([probe.class_scores(view["input"]) for view in measurement.views])


def _find_in_predictions(features: AuditFeatures, options: AuditOptions, timer: "_StepTimer") -> Findings:
    """Calibrate given predictions, and estimate the noise; there are no candidates."""
    timer.start("noise")
    given, y = features.train.features.own[PREDICTIONS], features.train.y
    probe = GivenScores().fit_indices(given, y, np.arange(len(features.classes)))
    member = EnsembleMember(Candidate(PREDICTIONS, "given", None), probe)
    ensemble = ProbeEnsemble((member,))
    scores = ensemble.scores({PREDICTIONS: given})
    some, noisy = _own_rows(scores, y)
    calibration, noise = estimate_noise(some, noisy, scores, y, None, seed=options.seed)
    measurement = SelectionSet({}, [], y)
    correct = measurement.correct([scores])
    scored = [CandidateScore(member.candidate, correct, None)]
    return Findings(
        ensemble,
        scores,
        calibration,
        noise,
        criterion=interval(correct),
        gain=None,
        head_fit=float("nan"),
        frequent=float(y.bincount().max() / len(y)),
        layers=candidate_table(scored, scored, None),
        controls=baseline_table(measure_baselines(measurement, y), correct),
    )


def _own_rows(scores: Tensor, y: Tensor) -> tuple[list[Tensor], SelectionSet]:
    """Return the scores (m, K) of evenly spaced training rows, and these rows as a selection set."""
    some = evenly_spaced(len(y))
    source = "out-of-sample scores of the rows themselves"
    return [scores[some]], SelectionSet({}, [], y[some], source=source)


def _result(features: AuditFeatures, options: AuditOptions, timer: "_StepTimer") -> Audit:
    """Return the audit of layer outputs or predictions in the user's order of rows."""
    find = _find_in_predictions if options.policy == OUT_OF_SAMPLE else _find
    findings = find(features, options, timer)
    timer.stop()
    place = torch.from_numpy(features.train.order.argsort())
    return Audit(
        replace(findings, scores=findings.scores[place]),
        features.train.y[place],
        features.index,
        features.classes,
        options.policy,
        settings=features.settings,
        cost=timer.seconds,
        flag_rule=options.flags,
    )


def _warn_of_training_rows(audit: Audit, what: str) -> None:
    """Warn if predictions agree with the given labels as often as predictions for training rows do."""
    agreement = _share(audit.scores.argmax(1) == audit.y)
    if agreement >= LIKE_TRAINING:
        warn(
            f"{what} agree with {agreement:.1%} of the given labels. Either almost no label is wrong, or the "
            "model was trained on these rows and repeats their labels. Use out-of-sample predictions, for "
            "example by cross-validation: each row predicted by a model that was trained without it",
            LayerprobeWarning,
        )


def _share(rows: Tensor) -> float:
    return float(rows.double().mean())


class _StepTimer:
    """Measures the seconds of each step, from "reading" on, and reports when one starts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._step = ""
        self.start("reading")

    def start(self, step: str) -> None:
        """End the current step and start another one."""
        self.stop()
        self._step, self._since = step, time.perf_counter()
        report_step(step)

    def stop(self) -> None:
        """End the current step."""
        if self._step:
            self.seconds[self._step] = time.perf_counter() - self._since
        self._step = ""


# Entry points -------------------------------------------------------------------------------------------


@shows_progress
@default_settings()
@torch.random.fork_rng([])  # a DataLoader and random transforms draw from torch's generator
def audit(
    model: nn.Module,
    data: Any,
    labels: Any = None,
    *,
    policy: str,
    holdout: Any = None,
    trusted: Any = None,
    test: Any = None,
    views: str | View | Iterable[str | View] | Mapping[str, View] = (),
    layers: str | Iterable[str | EllipsisType] | None = None,
    pool: Pool = None,
    probes: Any = DEFAULT_PROBES,
    inputs: Callable[[Any], Any] | None = None,
    class_names: Sequence[Any] | None = None,
    history: Sequence[float] | History | None = None,
    flags: FlagRule = "balanced",
    controls: bool = True,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool | Callable[[str], object] = True,
) -> Audit:
    """Find wrong training labels with the layers of a network that was trained on them.

    Every probe is fitted on every layer and scored on the rows of the policy. The best candidates become an
    ensemble, the decoder. Its score of each training row, by the fit without this row, determines which
    labels are probably wrong. The order of the rows, the batches and the names of the classes do not matter.

    In a job of several processes (`layerprobe.distributed.group`) all of them call this function with equal
    arguments. Each reads the data and runs the network over its share of the batches. The first process holds
    the layer outputs and fits the probes; all return the same result, which equals that of one process.

    Parameters
    ----------
    model : nn.Module
        Trained on `data`. It is not changed.
    data : arrays, (x, y), Dataset, DataLoader, iterable of batches, path, Hugging Face data set
        The training rows, as for :func:`layerprobe.auditing.read_rows`.
    labels : sequence of n labels, optional
        Labels that are not part of the data, or that replace them.
    policy : {"noisy_holdout", "unseen_views", "trusted", "test_split"}
        The rows that choose layer, probe and hyperparameter. "noisy_holdout": `holdout`, rows set aside
        before training, with labels as noisy as those of the training rows. "unseen_views": views of the
        training rows with their own noisy labels; needs only `views`. "trusted": rows with right labels,
        `trusted`. "test_split": the split of the paper; a fifth of a test set with right labels, `test`,
        chooses and the rest measures.
    holdout, trusted, test : as `data`, optional
        The labelled rows that the policy needs. The policy "noisy_holdout" takes `trusted` as well: with some
        verified rows beside the hold-out the noise rate is closer, see
        :func:`layerprobe.auditing.method.noise.rate_by_trusted_rows`.
    views : names, callables or mapping, optional
        Transforms that keep the label: "flip", "left", "right", "up", "down" (by two pixels) for images
        (n, c, h, w), or callables of a batch of inputs. Outputs are averaged over them.
    layers, pool, batch_size, device : optional
        As for :func:`layerprobe.probe`. Without `pool`, feature maps of more than 1,024 numbers are averaged
        over neighbouring positions, and tokens over the text.
    probes : names, probes, or a mapping of names to them
        Names as in ``layerprobe.probes.available()``. "whitened_knn" costs more than all others together.
    inputs : callable, optional
        From texts or images as stored to inputs of the model.
    class_names : sequence of K labels, optional
        Names of the network's outputs in their order. By default labels are integers 0..K-1, or names whose
        sorted order is that of the outputs.
    history : History or sequence of float, optional
        Accuracy of the network on a noisy hold-out after each epoch, for an early-stopping baseline.
    flags : "balanced", float in (0, 1) or int
        How many labels to flag, see :meth:`Audit.with_flags`.
    controls : bool
        Whether to compare with an untrained copy of the network, which doubles the passes. Without a noisy
        hold-out the noise is estimated from the best label-free layer: the raw input or, with `controls`, a
        layer of the untrained copy.
    seed : int
        Of the untrained copy and of the bootstrap.
    progress : bool or callable
        As for :func:`layerprobe.probe`.

    Returns
    -------
    Audit

    Raises
    ------
    InputError
        For labels, rows or views that do not fit together; a policy that is refused or lacks its argument; a
        network without one output per class; held-out rows that are among the training rows. In a job of
        several processes also for different networks or rows, or probes that cannot be sent.
    ProcessError
        If another process of the job ended.
    """
    options = AuditOptions(
        policy=policy,
        holdout=holdout,
        trusted=trusted,
        test=test,
        views=resolve_views(views) if views != () else {},
        layers=layers,
        pool=pool,
        probes=probes,
        inputs=inputs,
        class_names=class_names,
        history=history,
        flags=flags,
        controls=controls,
        batch_size=batch_size,
        device=device,
        seed=seed,
    )
    if world_size() > 1:
        check_sendable(options.probes)
    timer = _StepTimer()
    network = NetworkInputs.read(model, data, labels, options)
    network.require_resources()
    timer.start("layer outputs")
    features = network.extract()
    if rank():
        result = Audit(**receive_audit())
        result = replace(result, settings={**result.settings, "inputs": inputs})
    else:
        result = _result(features, options, timer)
        if world_size() > 1:
            send_audit(result)
    held_out, held_out_y = network.selecting
    return replace(
        result, reader=network.reader, rows=network.rows, held_out_rows=held_out, held_out_y=held_out_y
    )


@shows_progress
@default_settings()
def audit_features(
    features: Any,
    labels: Any,
    *,
    policy: str | None = None,
    holdout: tuple[Any, Any] | None = None,
    trusted: tuple[Any, Any] | None = None,
    test: tuple[Any, Any] | None = None,
    views: Sequence[Any] = (),
    index: Any = None,
    data: Any = None,
    probes: Any = DEFAULT_PROBES,
    class_names: Sequence[Any] | None = None,
    history: Sequence[float] | History | None = None,
    flags: FlagRule = "balanced",
    seed: int = 0,
    progress: bool | Callable[[str], object] = True,
) -> Audit:
    """Find wrong labels with given features, of any origin.

    Parameters
    ----------
    features : array (n, d), or mapping of str to array (n, d)
        One embedding, or the outputs of each layer. "input" is the raw input, which is a baseline, and
        "output" the logits of the network, which are its head. With `trusted`, the noise can be estimated
        only from "input": an embedding that does not depend on the labels may be given under this name.
    labels : sequence of n labels
    policy : str, optional
        As for :func:`audit`; the default is that of the other rows or views. Or "label_free", the default for
        one array without other rows, for features that do not depend on the labels, such as embeddings of a
        network that was not trained on them. A random fifth of the rows then selects the probe, and all rows
        are scored by fits without them.
    history, flags, probes, class_names, seed, progress
        As for :func:`audit`.
    holdout, trusted, test : (features, labels), optional
        With the same layers.
    views : sequence of features, optional
        Features of views of the same rows that keep the label.
    index : sequence of n names, optional
    data : optional
        The rows themselves, to show them in the report and in the review, in any form that :func:`audit`
        reads; texts and tables need no `inputs`.

    Returns
    -------
    Audit

    Raises
    ------
    InputError
        For features that are not finite and (n, d), labels that do not fit, or as for :func:`audit`.

    Warns
    -----
    LayerprobeWarning
        If features of the policy "label_free" predict almost all given labels.
    """
    given: dict[str, Any] = {"holdout": holdout, "trusted": trusted, "test": test}
    if not isinstance(features, Mapping):
        features = {FEATURES: features}
        views = [view if isinstance(view, Mapping) else {FEATURES: view} for view in views]
        given = {name: _with_layer(pair) for name, pair in given.items()}
        if policy is None and all(pair is None for pair in given.values()):
            policy = LABEL_FREE
    if policy is None:
        selecting = {**given, "views": views or None}
        policy = next((name for name, one in POLICIES.items() if selecting.get(one.needs) is not None), "")
    options = AuditOptions(
        policy=policy,
        own_policy=LABEL_FREE,
        **given,
        views=views,
        probes=probes,
        class_names=class_names,
        history=history,
        flags=flags,
        seed=seed,
    )
    timer = _StepTimer()
    read = features_of_arrays(features, labels, index, options)
    rows = rows_to_show(data, read.index)
    result = _result(read, options, timer)
    timer.start("conflicts")
    own = read.train.features.own
    X = own.get("input", next(iter(own.values())))
    conflicts = find_conflicts(X, read.train.y, read.train.hashes).renumbered(read.train.order)
    timer.stop()
    if policy == LABEL_FREE:
        _warn_of_training_rows(result, "predictions by these features, each without its row,")
    return replace(result, rows=rows, conflict_set=conflicts)


def _with_layer(pair: Any) -> Any:
    """Return held-out features and labels with the features of a single layer under its name."""
    if not isinstance(pair, tuple | list) or len(pair) != 2 or isinstance(pair[0], Mapping):
        return pair
    return {FEATURES: pair[0]}, pair[1]


@shows_progress
@default_settings()
def audit_predictions(
    pred_probs: Any,
    labels: Any,
    *,
    logits: bool | None = None,
    data: Any = None,
    index: Any = None,
    class_names: Sequence[Any] | None = None,
    flags: FlagRule = "balanced",
    seed: int = 0,
    progress: bool | Callable[[str], object] = True,
) -> Audit:
    """Find wrong labels with out-of-sample predictions of any model.

    Each row must be predicted by a model that was trained without this row, for example by cross-validation.
    A model repeats the wrong labels that it was trained on, so that predictions for its training rows hide
    them.

    Parameters
    ----------
    pred_probs : array, Tensor or DataFrame (n, K)
        Class probabilities or logits. The columns of a frame are the names of the classes and its index those
        of the rows. Of two classes also (n,): the probability or the logit of the second one.
    labels : sequence of n labels
        Given labels of any type that has a hash. Classes without a label may have a column.
    logits : bool, optional
        Whether the values are logits. By default they are logits if one is negative, and probabilities if
        all lie between 0 and 1 and every row sums to 1; others are refused. Logarithms of probabilities are
        logits.
    data : optional
        As for :func:`audit_features`.
    index : sequence of n names, optional
        Names of the rows.
    class_names : sequence of K labels, optional
        Names of the columns. By default labels are integers 0..K-1, or names whose sorted order is that of
        the columns.
    flags, seed, progress
        As for :func:`audit`.

    Returns
    -------
    Audit
        Its decoder are the predictions, which it calibrates. It cannot retrain.

    Raises
    ------
    InputError
        For values that are no predictions, or labels that do not fit.

    Warns
    -----
    LayerprobeWarning
        If the predictions agree with almost all given labels.
    """
    options = AuditOptions(
        policy=OUT_OF_SAMPLE, own_policy=OUT_OF_SAMPLE, class_names=class_names, flags=flags, seed=seed
    )
    timer = _StepTimer()
    read = features_of_predictions(pred_probs, labels, index, options, logits=logits)
    rows = rows_to_show(data, read.index)
    result = _result(read, options, timer)
    _warn_of_training_rows(result, "the predictions")
    return replace(result, rows=rows)


@default_settings()
def plan_audit(model: nn.Module, data: Any, labels: Any = None, **options: Any) -> AuditPlan:
    """Check the arguments of an audit, and return what it would do.

    Parameters
    ----------
    model, data, labels, **options
        As for :func:`audit`.

    Raises
    ------
    InputError
        As for :func:`audit`, for everything that is checked before its first pass.
    """
    options["views"] = resolve_views(options.get("views", ()))
    return NetworkInputs.read(model, data, labels, AuditOptions(**options)).plan
