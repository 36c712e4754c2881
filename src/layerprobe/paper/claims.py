"""Claims of the paper, of its follow-up study and our own, tested on tidy rows by stated rules.

A cell is a pair and a corruption degree of one variant, as in Table 1. Every claim is a difference of two
shares per cell that must be above 2 points. `VERDICT_RULE` states how cells make a verdict.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce

import pandas as pd

from layerprobe.paper.pairs import PAIRS, PAPER_PAIRS
from layerprobe.paper.selection import (
    GROUP,
    PAPER,
    TEST,
    accuracies,
    at_best_layer,
    direction,
    hidden_layers,
    masc_at_best_layer,
    means,
    network_accuracy,
    network_retraining,
    optimizers,
    scale,
    select,
    training_images,
    words,
)
from layerprobe.paper.tables.compared import TOO_SMALL

Frame = pd.DataFrame
Selection = Callable[[Frame], Frame]
MOST = 0.9  # share of the cells that a claim must hold in
FEWEST = 4  # cells, below which a verdict has a caveat
VERDICTS = ("holds", "holds with a caveat", "does not hold", TOO_SMALL, "not tested")
VERDICT_RULE = (
    "A claim holds in a cell if its difference is above 2 points. It holds if that is so in at least 90 % of "
    "the measured cells and no control contradicts it; it holds with a caveat if it is so in more than half "
    "of the cells; else it does not hold, or is too small to tell if all cells are of small scale. A "
    "control contradicts a claim if it is better than the claimed number, or equal within 2 points, in more "
    "than half of the cells. Fewer than four cells leave a caveat."
)


def claims_table(rows: Frame) -> Frame:
    """Return the table of claims.

    Parameters
    ----------
    rows : DataFrame
        Tidy rows (`layerprobe.paper.rows.COLUMNS`) of one scale. Human labels are left out, and runs on
        another number of training images than most of their pair.

    Returns
    -------
    DataFrame
        claim, where, rule, verdict (one of `VERDICTS`), evidence, controls; all texts. At small scale, where
        effects of the paper do not appear, a claim that does not hold is "too small to tell".
    """
    rows = rows[rows["corruption"].notna() & rows["pair"].isin(PAIRS)]
    images = training_images(rows)
    runs = rows.assign(images=images).groupby(["pair", "images"])["key"].nunique()
    usual = runs.sort_values(kind="stable").reset_index().groupby("pair")["images"].last()  # or the larger
    rows = rows[images == rows["pair"].map(usual)]
    return pd.DataFrame([_line(claim, rows) for claim in CLAIMS])


def _has_own_optimizer(rows: Frame) -> "pd.Series[bool]":
    return optimizers(rows) == rows["pair"].map(lambda pair: PAIRS[pair].recipe.optimizer)


def _cells(rows: Frame) -> Frame:
    """Return the rows of the cells of Table 1."""
    return rows[rows["corruption"].between(0, 1, "neither") & _has_own_optimizer(rows)]


@dataclass(frozen=True)
class Claim:
    """A claim: one share is larger than another in every cell."""

    text: str
    where: str  # in the paper
    rule: str  # the difference in words
    claimed: Selection  # from the rows of the cells to those of the first share
    other: Selection = network_accuracy  # and of the second
    controls: Mapping[str, Selection] = field(default_factory=dict)  # baselines by name, which contradict it
    cells: Selection = _cells  # from all rows to those of the cells


def _line(claim: Claim, rows: Frame) -> dict[str, str]:
    of = claim.cells(rows)
    cells = _shares(of, claimed=claim.claimed, other=claim.other)
    texts = {"claim": claim.text, "where": claim.where, "rule": claim.rule}
    if cells.empty:
        return {**texts, "verdict": "not tested", "evidence": "", "controls": ""}
    share = (direction(cells["claimed"] - cells["other"]) > 0).mean()
    said, contradicted = [], False
    for name, control in claim.controls.items():
        both = cells[GROUP].merge(_shares(of, claimed=claim.claimed, control=control), on=GROUP)
        if len(both):
            compared = direction(both["control"] - both["claimed"])
            better, equal = (compared > 0).sum(), (compared == 0).sum()
            said.append(f"{name}: better in {better}, equal in {equal} of {len(both)}")
            contradicted |= better + equal > len(both) / 2
    verdict = TOO_SMALL if set(cells["variant"].map(scale)) == {"small"} else "does not hold"
    if share > 0.5:
        caveat = contradicted or share < MOST or len(cells) < FEWEST
        verdict = "holds with a caveat" if caveat else "holds"
    return {**texts, "verdict": verdict, "evidence": _evidence(cells), "controls": "; ".join(said)}


def _shares(rows: Frame, **selections: Selection) -> Frame:
    """Return the mean of each selection per cell, a column each, over the runs that all of them have."""
    runs = (set(choose(rows).dropna(subset="value")["key"]) for choose in selections.values())
    rows = rows[rows["key"].isin(set.intersection(*runs))]
    parts = [means(choose(rows), GROUP, name)[[*GROUP, name]] for name, choose in selections.items()]
    return reduce(lambda left, right: left.merge(right, on=GROUP), parts)


def _evidence(cells: Frame) -> str:
    """Return the number of cells that agree, and the mean difference, overall and per pair."""
    difference = cells["claimed"] - cells["other"]
    agree = (direction(difference) > 0).sum()
    cells = cells.assign(difference=100 * difference)
    pairs = cells.groupby("pair", sort=False)["difference"].agg(["mean", "size"])
    parts = [f"{pair} {mean:+.1f} ({size:.0f})" for pair, mean, size in pairs.itertuples()]
    return (
        f"{agree} of {len(cells)} cells, mean {cells['difference'].mean():+.1f} points; per pair (cells): "
        f"{', '.join(parts)}"
    )


def _of_controls(cells: Frame, setting: str) -> Frame:
    return select(cells, "controls", setting=setting, **TEST)


def _untrained(cells: Frame, fitted_on: str = "noisy") -> Frame:
    untrained = _of_controls(cells, "untrained")
    return at_best_layer(hidden_layers(untrained[untrained["fitted_on"] == fitted_on]))


def _nearest_mean(cells: Frame) -> Frame:
    return at_best_layer(hidden_layers(select(cells, "probes", probe="ncm", fitted_on="noisy", **TEST)))


# Baselines by name, from the rows of the cells to those of the baseline.
CONTROLS: dict[str, Selection] = {
    "MASC on the untrained network": _untrained,
    "MASC on the raw input": lambda cells: select(
        cells, "noisy_subspaces", fitted_on="noisy", layer="input", **PAPER, **TEST
    ),
    "the network's best epoch": partial(_of_controls, setting="best_epoch"),
    "nearest class mean": _nearest_mean,
}
_noisy = partial(masc_at_best_layer, fitted_on="noisy")
_hidden = partial(_noisy, hidden=True)


def _train(cells: Frame) -> Frame:
    return at_best_layer(
        accuracies(select(cells, "noisy_subspaces", fitted_on="noisy", **PAPER), split="train")
    )


def _worst_threshold(cells: Frame) -> Frame:
    """Return MASC at the worst of the published thresholds per cell."""
    every = pd.concat(_noisy(cells, setting=setting) for setting in THRESHOLDS)
    keys = [*GROUP, "setting"]
    shares = means(every, keys)
    worst = shares.loc[shares.groupby(GROUP, sort=False)["ours"].idxmin(), keys]
    return worst.merge(every, on=keys)  # in the order of the groups


def _latent(cells: Frame, *, raw_input: bool = False) -> Frame:
    """Return the accuracy on labels corrupted after training; their degree is that of the cell.

    That of the best hidden layer, or that of the raw input.
    """
    latent = select(cells, "latent_memorisation", fitted_on="noisy", **PAPER)
    train = accuracies(latent, "train", "noisy")
    train = train.assign(corruption=train["degree"])
    return train[train["layer"] == "input"] if raw_input else at_best_layer(hidden_layers(train))


def _unchanged(cells: Frame) -> Frame:
    """Return the accuracy of the true labels on those that `_latent` is measured against.

    It is NaN for noise other than the paper's, and for pairs whose number of classes is not known here.
    """
    latent = _latent(cells)
    named = latent["variant"].map(lambda variant: words(variant).get("num_classes")).astype(float)
    classes = named.fillna(latent["pair"].map(CLASSES))
    share = 1 - latent["degree"] * (1 - 1 / classes)
    return latent.assign(value=share.where(latent["noise"].isin(["uniform", "published"])))


def _corrected(cells: Frame, **which: str) -> Frame:
    measured = select(cells, "corrected_subspaces", probe="masc", setting="p", **TEST, **which)
    return at_best_layer(measured)


def _retrained(cells: Frame, when: str, **which: str) -> Frame:
    return network_retraining(cells, setting="early_stopping", **which)[when]


THRESHOLDS = ("0.25", "0.5", "0.75", "0.99", "1pc")  # published
CLASSES = dict.fromkeys((*PAPER_PAIRS, "mlp-digits"), 10) | {"alexnet-cifar100": 100}
CLASSES |= {"alexnet-tiny-imagenet": 200}
CLAIMS = (
    Claim(
        "Memorising corrupted labels costs test accuracy",
        "Tables 2, 3",
        "network: test accuracy of the best epoch minus that of the last",
        partial(_of_controls, setting="best_epoch"),
        partial(_of_controls, setting="last_epoch"),
    ),
    Claim(
        "MASC on the layers of a memorised network and on its corrupted labels is better than the network",
        "Table 1, Figures 2, 12",
        "test accuracy of MASC, noisy subspaces, best layer, minus that of the network",
        _noisy,
        controls=CONTROLS,
    ),
    Claim(
        "The same holds without the raw input among the layers",
        "Figures 2, 12",
        "as above, best hidden layer",
        _hidden,
        controls=CONTROLS,
    ),
    Claim(
        "With true labels the layers give high test accuracy",
        "Table 5, Figures 3, 13",
        "test accuracy of MASC, true subspaces, best layer, minus that of the network",
        partial(masc_at_best_layer, fitted_on="true"),
        partial(network_accuracy, experiment="true_subspaces"),
        {"MASC on the untrained network, true subspaces": partial(_untrained, fitted_on="true")},
    ),
    Claim(
        "Training makes these layers, not the architecture alone: random initialisation is worse",
        "supplement",
        "test accuracy of MASC, noisy subspaces, best hidden layer: trained minus untrained network",
        _hidden,
        _untrained,
    ),
    Claim(
        "MASC recovers true labels of the training data",
        "Figures 2, 12",
        "accuracy on the training data against true labels: MASC, noisy subspaces, layer best for these "
        "labels, minus the network",
        _train,
        partial(network_accuracy, split="train"),
    ),
    Claim(
        "The result does not depend on the variance threshold",
        "supplement",
        "test accuracy of MASC at the worst of .25, .5, .75, .99 and one component minus that of the network",
        _worst_threshold,
    ),
    Claim(
        "The same holds for another optimiser (Adam for the MLPs)",
        "supplement",
        "as for Table 1, runs with Adam",
        _noisy,
        controls=CONTROLS,
        cells=lambda rows: rows[rows["corruption"].between(0, 1, "neither") & ~_has_own_optimizer(rows)],
    ),
    Claim(
        "Networks trained on true labels have latent memorisation",
        "supplement",
        "accuracy on labels corrupted after training, best hidden layer, minus that of all true labels",
        _latent,
        _unchanged,
        {"MASC on the raw input": partial(_latent, raw_input=True)},
        cells=lambda rows: rows[(rows["corruption"] == 0) & _has_own_optimizer(rows)],
    ),
    Claim(
        "Relabelling by noisy subspaces removes wrong labels",
        "Table 6, Figures 28-30",
        "share of incorrect labels before minus after",
        partial(select, experiment="retraining", fitted_on="noisy", metric="incorrect_before"),
        partial(select, experiment="retraining", fitted_on="noisy", metric="incorrect_after"),
    ),
    *(
        Claim(
            f"Retraining on labels of {labels} subspaces improves the network",
            "Figures 4, 27, 31",
            rule,
            partial(_retrained, when="last_epoch", fitted_on=labels),
            partial(_retrained, when="before", fitted_on=labels),
        )
        for labels, rule in (
            ("noisy", "accuracy on 80 % of the test data after retraining with early stopping minus before"),
            ("true", "as above, true subspaces"),
        )
    ),
    Claim(
        "MASC is better with the noise taken out of the second moments",
        "not in the paper",
        "test accuracy of MASC(noise=p), best layer, minus that of MASC, noisy subspaces, best layer",
        _corrected,
        _noisy,
        {
            **CONTROLS,
            "MASC with one component": partial(_noisy, setting="1pc"),
            "MASC(noise=p) on the raw input": partial(_corrected, layer="input"),
        },
    ),
    Claim(
        "Retraining on labels of MASC(noise=p) improves the network",
        "not in the paper",
        "as for noisy subspaces",
        partial(_retrained, when="last_epoch", experiment="corrected_retraining"),
        partial(_retrained, when="before", experiment="corrected_retraining"),
    ),
    Claim(
        "A probe as the last layer improves the network without training (VeLPIC, bias zero)",
        "arXiv 2603.19865",
        "test accuracy of the edited network minus that of the network",
        lambda cells: select(
            cells, "weight_edit", probe="velpic", setting="bias_zero", fitted_on="noisy", **TEST
        ),
    ),
)
