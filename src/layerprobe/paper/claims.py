"""The claims of the paper and its follow-up against tidy rows: a table by stated rules.

A cell is a pair and a corruption degree of one variant, as in Table 1. Every claim is a difference of two
shares per cell that must be above `MARGIN`. `VERDICT_RULE` states how cells make a verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from layerprobe.paper.pairs import PAIRS
from layerprobe.paper.selection import (
    GROUP,
    PAPER,
    TEST,
    accuracies,
    at_best_layer,
    hidden_layers,
    means,
    network_retraining,
    optimizer,
    select,
    words,
)

Frame = pd.DataFrame
MARGIN = 0.02  # a difference of shares up to this counts as none, as in the verdicts of the tables
MOST = 0.9  # share of the cells that a claim must hold in
FEWEST = 4  # cells, below which a verdict has a caveat
VERDICTS = ("holds", "holds with a caveat", "does not hold", "not tested")
VERDICT_RULE = (
    "A claim holds in a cell if its difference is above 2 points. It holds if that is so in at least 90 % of "
    "the measured cells and no control contradicts it; it holds with a caveat if it is so in more than half "
    "of the cells; else it does not hold. A control contradicts a claim if it is better than the claimed "
    "number, or equal within 2 points, in more than half of the cells. Fewer than four cells leave a caveat."
)


@dataclass(frozen=True)
class Claim:
    """One claim."""

    text: str
    where: str  # in the paper
    # From rows to the two shares of every cell: `GROUP`, claimed, other
    compare: Callable[[Frame], Frame]
    rule: str  # the difference in words
    controls: tuple[str, ...] = ()  # names in `CONTROLS`, which contradict the claim if they reach its share


def claims_table(rows: Frame) -> Frame:
    """Return the table of claims.

    Parameters
    ----------
    rows : DataFrame
        Tidy rows (`layerprobe.paper.rows.COLUMNS`) of one scale; human labels are left out.

    Returns
    -------
    DataFrame
        claim, where, rule, verdict (one of `VERDICTS`), evidence, controls; all texts.
    """
    rows = rows[rows["corruption"].notna() & rows["pair"].isin(PAIRS)]
    return pd.DataFrame([_line(claim, rows) for claim in CLAIMS])


def _line(claim: Claim, rows: Frame) -> dict[str, str]:
    cells = claim.compare(rows)
    texts = {"claim": claim.text, "where": claim.where, "rule": claim.rule}
    if cells.empty:
        return {**texts, "verdict": "not tested", "evidence": "", "controls": ""}
    difference = cells["claimed"] - cells["other"]
    share = (difference > MARGIN).mean()
    said, contradicted = [], False
    for name in claim.controls:
        both = cells.merge(CONTROLS[name](rows), on=GROUP)
        if len(both):
            better, equal = _counts(both["control"] - both["claimed"])
            said.append(f"{name}: better in {better}, equal in {equal} of {len(both)}")
            contradicted |= better + equal > len(both) / 2
    verdict = "does not hold"
    if share > 0.5:
        caveat = contradicted or share < MOST or len(cells) < FEWEST
        verdict = "holds with a caveat" if caveat else "holds"
    return {**texts, "verdict": verdict, "evidence": _evidence(cells), "controls": "; ".join(said)}


def _counts(differences: pd.Series) -> tuple[int, int]:
    """Return how many differences are above the margin, and within it."""
    return int((differences > MARGIN).sum()), int((differences.abs() <= MARGIN).sum())


def _evidence(cells: Frame) -> str:
    """Return the number of cells that agree, and the mean difference, overall and per pair."""
    cells = cells.assign(difference=100 * (cells["claimed"] - cells["other"]))
    agree = (cells["difference"] > 100 * MARGIN).sum()
    pairs = cells.groupby("pair", sort=False)["difference"].agg(["mean", "size"])
    parts = [f"{pair} {mean:+.1f} ({size:.0f})" for pair, mean, size in pairs.itertuples()]
    return (
        f"{agree} of {len(cells)} cells, mean {cells['difference'].mean():+.1f} points; per pair (cells): "
        f"{', '.join(parts)}"
    )


def _paired(claimed: Frame, other: Frame, keys: Sequence[str] = GROUP) -> Frame:
    """Return the mean shares of cells that have both."""
    left, right = means(claimed, keys, "claimed"), means(other, keys, "other")
    return left[[*keys, "claimed"]].merge(right[[*keys, "other"]], on=list(keys))


def _corrupted(rows: Frame) -> Frame:
    """Return the rows of the cells of Table 1."""
    return rows[(rows["corruption"] > 0) & (rows["corruption"] < 1)]


def _sgd(rows: Frame) -> Frame:
    """Return the rows of runs with the optimiser of their pair."""
    which = zip(rows["pair"], rows["variant"], strict=True)
    own = [optimizer(pair, variant) == PAIRS[pair].recipe.optimizer for pair, variant in which]
    return rows[pd.Series(own, rows.index, dtype=bool)]


def _cells(rows: Frame) -> Frame:
    return _sgd(_corrupted(rows))


def _masc(rows: Frame, fitted_on: str, setting: str = PAPER["setting"], *, hidden: bool = False) -> Frame:
    tests = select(rows, f"{fitted_on}_subspaces", probe="masc", setting=setting, fitted_on=fitted_on, **TEST)
    return at_best_layer(hidden_layers(tests) if hidden else tests)


def _network(rows: Frame, experiment: str = "noisy_subspaces", **which: str) -> Frame:
    return select(rows, experiment, probe="network", **{**TEST, **which})


def _control(rows: Frame) -> Frame:
    return means(rows, GROUP, "control")[[*GROUP, "control"]]


def _untrained(rows: Frame) -> Frame:
    tests = select(_cells(rows), "controls", setting="untrained", fitted_on="noisy", **TEST)
    return _control(at_best_layer(hidden_layers(tests)))


def _best_epoch(rows: Frame) -> Frame:
    return _control(select(_cells(rows), "controls", setting="best_epoch", **TEST))


def _raw_input(rows: Frame) -> Frame:
    of = _cells(rows)
    return _control(select(of, "noisy_subspaces", fitted_on="noisy", layer="input", **PAPER, **TEST))


def _nearest_mean(rows: Frame) -> Frame:
    tests = select(_cells(rows), "probes", probe="ncm", fitted_on="noisy", **TEST)
    return _control(at_best_layer(hidden_layers(tests)))


# Baselines by name, from rows to their share per cell, in the column control.
CONTROLS: dict[str, Callable[[Frame], Frame]] = {
    "MASC on the untrained network": _untrained,
    "MASC on the raw input": _raw_input,
    "the network's best epoch": _best_epoch,
    "nearest class mean": _nearest_mean,
}


def _noisy_beats_network(rows: Frame) -> Frame:
    of = _cells(rows)
    return _paired(_masc(of, "noisy"), _network(of))


def _hidden_beats_network(rows: Frame) -> Frame:
    of = _cells(rows)
    return _paired(_masc(of, "noisy", hidden=True), _network(of))


def _true_beats_network(rows: Frame) -> Frame:
    of = _cells(rows)
    return _paired(_masc(of, "true"), _network(of, "true_subspaces"))


def _trained_beats_untrained(rows: Frame) -> Frame:
    of = _cells(rows)
    untrained = select(of, "controls", setting="untrained", fitted_on="noisy", **TEST)
    return _paired(_masc(of, "noisy", hidden=True), at_best_layer(hidden_layers(untrained)))


def _memorising_costs(rows: Frame) -> Frame:
    controls = select(_cells(rows), "controls", **TEST)
    best, last = (controls[controls["setting"] == name] for name in ("best_epoch", "last_epoch"))
    return _paired(best, last)


def _recovers_training_labels(rows: Frame) -> Frame:
    of = _cells(rows)
    train = accuracies(select(of, "noisy_subspaces", fitted_on="noisy", **PAPER), "train")
    return _paired(at_best_layer(train), _network(of, split="train"))


def _latent(rows: Frame) -> Frame:
    """Compare the accuracy on labels corrupted after training with that of the true labels."""
    clean = _sgd(rows[rows["corruption"] == 0])
    train = accuracies(select(clean, "latent_memorisation", fitted_on="noisy", **PAPER), "train", "noisy")
    train = train.assign(corruption=train["degree"])
    best = at_best_layer(train)
    named = best["variant"].map(lambda variant: words(variant).get("num_classes")).astype(float)
    classes = named.fillna(best["pair"].map(CLASSES))
    unchanged = best.assign(value=1 - best["degree"] * (1 - 1 / classes))
    return _paired(best, unchanged)


def _relabelling_improves(rows: Frame) -> Frame:
    of = _cells(rows)
    before, after = (
        select(of, "retraining", fitted_on="noisy", metric=name)
        for name in ("incorrect_before", "incorrect_after")
    )
    return _paired(before, after)


def _retraining_improves(rows: Frame, fitted_on: str) -> Frame:
    network = network_retraining(_cells(rows), fitted_on=fitted_on, setting="early_stopping")
    return _paired(network["last_epoch"], network["before"])


def _any_threshold(rows: Frame) -> Frame:
    """Compare MASC at the worst of the published thresholds with the network."""
    of = _cells(rows)
    every = [means(_masc(of, "noisy", setting), GROUP, "claimed") for setting in THRESHOLDS]
    worst = pd.concat(every).groupby(GROUP, sort=False)["claimed"].min().reset_index()
    network = means(_network(of), GROUP, "other")
    return worst.merge(network[[*GROUP, "other"]], on=GROUP)


def _adam(rows: Frame) -> Frame:
    """Compare MASC with the network for runs with another optimiser than their pair's."""
    of = _corrupted(rows)
    of = of[~of["key"].isin(_sgd(of)["key"])]
    return _paired(_masc(of, "noisy"), _network(of))


def _edit(rows: Frame) -> Frame:
    of = _cells(rows)
    edited = select(of, "weight_edit", probe="velpic", setting="bias_zero", fitted_on="noisy", **TEST)
    return _paired(edited, _network(of))


THRESHOLDS = ("0.25", "0.5", "0.75", "0.99", "1pc")  # published
CLASSES = dict.fromkeys(PAIRS, 10) | {"alexnet-cifar100": 100, "alexnet-tiny-imagenet": 200}
_BASELINES = tuple(CONTROLS)
CLAIMS = (
    Claim(
        "Memorising corrupted labels costs test accuracy",
        "Tables 2, 3",
        _memorising_costs,
        "network: test accuracy of the best epoch minus that of the last",
    ),
    Claim(
        "MASC on the layers of a memorised network and on its corrupted labels is better than the network",
        "Table 1, Figures 2, 12",
        _noisy_beats_network,
        "test accuracy of MASC, noisy subspaces, best layer, minus that of the network",
        _BASELINES,
    ),
    Claim(
        "The same holds without the raw input among the layers",
        "Figures 2, 12",
        _hidden_beats_network,
        "as above, best hidden layer",
        _BASELINES,
    ),
    Claim(
        "With true labels the layers give high test accuracy",
        "Table 5, Figures 3, 13",
        _true_beats_network,
        "test accuracy of MASC, true subspaces, best layer, minus that of the network",
    ),
    Claim(
        "Training makes these layers, not the architecture alone: random initialisation is worse",
        "supplement",
        _trained_beats_untrained,
        "test accuracy of MASC, noisy subspaces, best hidden layer: trained minus untrained network",
    ),
    Claim(
        "MASC recovers true labels of the training data",
        "Figures 2, 12",
        _recovers_training_labels,
        "accuracy on the training data against true labels: MASC, noisy subspaces, minus the network",
    ),
    Claim(
        "The result does not depend on the variance threshold",
        "supplement",
        _any_threshold,
        "test accuracy of MASC at the worst of .25, .5, .75, .99 and one component minus that of the network",
    ),
    Claim(
        "The same holds for another optimiser (Adam for the MLPs)",
        "supplement",
        _adam,
        "as for Table 1, runs with Adam",
    ),
    Claim(
        "Networks trained on true labels have latent memorisation",
        "supplement",
        _latent,
        "accuracy on labels corrupted after training, best layer, minus that of all true labels",
    ),
    Claim(
        "Relabelling by noisy subspaces removes wrong labels",
        "Table 6, Figures 28-30",
        _relabelling_improves,
        "share of incorrect labels before minus after",
    ),
    Claim(
        "Retraining on labels of noisy subspaces improves the network",
        "Figures 4, 27, 31",
        lambda rows: _retraining_improves(rows, "noisy"),
        "accuracy on 80 % of the test data after retraining with early stopping minus before",
    ),
    Claim(
        "Retraining on labels of true subspaces improves the network",
        "Figures 4, 27, 31",
        lambda rows: _retraining_improves(rows, "true"),
        "as above, true subspaces",
    ),
    Claim(
        "A probe as the last layer improves the network without training (VeLPIC, bias zero)",
        "arXiv 2603.19865",
        _edit,
        "test accuracy of the edited network minus that of the network",
    ),
)
