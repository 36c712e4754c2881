"""Rows with values known by formula, for every experiment: what figures of them must show."""

import numpy as np
import pandas as pd

from layerprobe.paper.experiments.subspaces import SETTINGS
from layerprobe.paper.rows import COLUMNS, RUN

DEGREES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LAYERS = ["input", "fc1", "fc2", "fc3"]
PROBES = ["masc", "ncm", "logistic", "lda", "qda", "knn", "velpic"]
HUMAN = {
    "cifar-10n:aggre": 0.1,
    "cifar-10n:random1": 0.2,
    "cifar-10n:worst": 0.4,
}  # and what degree they are like
SPLITS = {("train", "noisy"): 0.0, ("train", "true"): 0.02, ("test", "true"): 0.04}


def runs(pairs, degrees, seeds, subset=None, human=()):
    """Yield the run columns; seed s has every seed s."""
    for pair in pairs:
        for noise, p in [*(("uniform", p) for p in degrees), *((name, np.nan) for name in human)]:
            for seed in range(seeds):
                variant = [f"subset {subset}"] if subset else []
                variant += [f"noise {noise}"] if ":" in noise else []
                names = {"pair": pair, "corruption": p, "noise": noise, "subset": subset or pd.NA}
                names |= dict.fromkeys(["noise_seed", "init_seed", "order_seed"], seed)
                yield names | {"seed": seed, "variant": ", ".join(variant), "key": f"{pair}{noise}{p}{seed}"}


def masc(p, i, seed, fitted_on="noisy", setting="0.99", extra=0.0):
    """Return MASC's accuracy at layer i; the seeds lie one point apart, the largest in the second layer."""
    strength = list(SETTINGS).index(setting)
    share = 0.9 - (0.5 if fitted_on == "noisy" else 0.15) * p - 0.04 * abs(i - 1) - 0.01 * abs(strength - 3)
    return share + 0.01 * seed + extra


def network(p, seed, extra=0.0):
    return 0.85 - 0.7 * p + 0.01 * seed + extra


def frame(pairs=("mlp-mnist",), degrees=DEGREES, seeds=3, layers=None, *, subset=None, human=()):
    """Return rows of all experiments."""
    records = []
    layers = layers or dict.fromkeys(pairs, LAYERS)
    for run in runs(pairs, degrees, seeds, subset, human):
        p = HUMAN.get(run["noise"], run["corruption"])
        records += [run | record for record in _of_run(p, run["seed"], layers[run["pair"]])]
    rows = pd.DataFrame(records, columns=COLUMNS)
    texts = ["experiment", "layer", "probe", "setting", "fitted_on", "split", "labels", "metric"]
    return rows.fillna(dict.fromkeys(texts, "")).astype(
        {"subset": "Int64", "epoch": "Int64", "class": "Int64"}
    )


def _accuracy(experiment, layer, probe, value, split="test", labels="true", **more):
    return {
        "experiment": experiment,
        "layer": layer,
        "probe": probe,
        "split": split,
        "labels": labels,
        "metric": "accuracy",
        "value": value,
        **more,
    }


def _of_run(p, seed, layers):
    for fitted_on in ("noisy", "true") if p else ("noisy",):
        name = f"{fitted_on}_subspaces"
        for (split, labels), extra in SPLITS.items():
            yield _accuracy(name, "output", "network", network(p, seed, extra), split, labels)
        for i, layer in enumerate(layers):
            for setting in SETTINGS:
                for (split, labels), extra in SPLITS.items():
                    value = masc(p, i, seed, fitted_on, setting, extra)
                    more = {"fitted_on": fitted_on, "setting": setting}
                    yield _accuracy(name, layer, "masc", value, split, labels, **more)
            for k in range(3):
                value = 10 * (i + 1) + 20 * p + k
                more = {"fitted_on": fitted_on, "setting": "0.99", "class": k, "metric": "components"}
                yield {"experiment": name, "layer": layer, "probe": "masc", "value": value, **more}
    for name in (
        ("cost", "similarity") if p else ("latent_memorisation",)
    ):  # times of experiments have no layer
        yield {"experiment": name, "metric": "experiment_seconds", "value": 3.0}
    yield from _probes(p, seed, layers)
    yield from _controls(p, seed, layers)
    if p == 0:
        for i, layer in enumerate(layers):
            for degree in DEGREES[1:]:
                for (split, labels), extra in SPLITS.items():
                    more = {"fitted_on": "noisy", "setting": "0.99", "degree": degree}
                    value = masc(degree, i, seed, extra=extra)
                    yield _accuracy("latent_memorisation", layer, "masc", value, split, labels, **more)
    else:
        yield from _similarity(p, seed, layers)
        yield from _flipped(p, seed, layers)
    if 0 < p < 1:
        yield from _corrected(p, seed, layers)
    yield from _retraining(p, seed, layers)
    yield from _dynamics(p, seed, layers)


def _probes(p, seed, layers):
    yield _accuracy("probes", "output", "network", network(p, seed))
    for i, layer in enumerate(layers):
        for j, probe in enumerate(PROBES):
            for fitted_on in ("noisy", "true"):
                value = masc(p, i, seed, fitted_on) - 0.04 * j
                yield _accuracy("probes", layer, probe, value, fitted_on=fitted_on)
            cost = {"fit_flops": 1e6, "predict_flops": 1e5, "fit_seconds": 0.1, "predict_seconds": 0.01}
            for metric, value in cost.items():
                free = probe == "knn" and metric == "fit_flops"
                value = 0 if free else value * (i + 1) * 3.0**j
                more = {"fitted_on": "noisy", "metric": metric, "value": value}
                yield {"experiment": "cost", "layer": layer, "probe": probe, **more}


def _controls(p, seed, layers):
    for i, layer in enumerate(layers):
        for fitted_on in ("noisy", "true"):
            more = {"fitted_on": fitted_on, "setting": "untrained"}
            yield _accuracy("controls", layer, "masc", masc(p, i, seed, fitted_on) - 0.2, **more)
    last, best = {"setting": "last_epoch", "epoch": 50}, {"setting": "best_epoch", "epoch": 7}
    yield _accuracy("controls", "output", "network", network(p, seed), **last)
    yield _accuracy("controls", "output", "network", network(p / 2, seed), **best)


def _retraining(p, seed, layers):
    """Yield retraining that is best on validation after epoch 2 and ends two epochs later."""
    for fitted_on in ("noisy", "true") if p else ("noisy",):
        chosen = {"fitted_on": fitted_on}
        for metric, value in relabelled(p, fitted_on).items():
            which = {"experiment": "retraining", "layer": layers[1], "probe": "masc", "split": "train"}
            yield {**which, **chosen, "metric": metric, "value": value}
        for split in ("evaluation", "validation"):
            yield _accuracy("retraining", layers[1], "masc", masc(p, 1, seed, fitted_on), split, **chosen)
            for setting, last in (("early_stopping", 4), ("ten_epochs", 10)):
                for epoch in range(last + 1):
                    more = {**chosen, "setting": setting, "epoch": epoch}
                    off = abs(epoch - 2) if split == "validation" else epoch
                    step = 0.01 if fitted_on == "noisy" else 0.02
                    value = network(p, seed) + step * off * (-1 if split == "validation" else 1)
                    yield _accuracy("retraining", "output", "network", value, split, **more)
        for setting, last in (("early_stopping", 4), ("ten_epochs", 10)):
            for epoch in range(last + 1):
                for labels, shift in (("true", 0.0), ("relabelled", 0.1)):
                    value = network(p, seed) + 0.02 * epoch + shift
                    more = {**chosen, "setting": setting, "epoch": epoch}
                    yield _accuracy("retraining", "output", "network", value, "train", labels, **more)


def relabelled(p, fitted_on):
    """Return the statistics of relabelling: true subspaces correct more."""
    corrected = 0.2 if fitted_on == "noisy" else 0.6
    statistics = {"incorrect_before": 0.9 * p, "broken": 0.1, "incorrect_after": 0.9 * p * (1 - corrected)}
    return statistics | {"corrected": corrected if p else np.nan}


def _flipped(p, seed, layers):
    """Yield accuracies on flipped and unflipped rows."""
    yield {"experiment": "flipped_rows", "metric": "flipped_share", "value": 0.9 * p}
    splits = {("flipped", "noisy"): 0.0, ("flipped", "true"): -0.3, ("unflipped", "true"): 0.05}
    for (split, labels), extra in splits.items():
        yield _accuracy("flipped_rows", "output", "network", 0.9 + extra, split, labels)
        for i, layer in enumerate(layers):
            for fitted_on in ("noisy", "true"):
                more = {"fitted_on": fitted_on, "setting": "0.99"}
                yield _accuracy(
                    "flipped_rows", layer, "masc", masc(p, i, seed, fitted_on) + extra, split, labels, **more
                )


def _corrected(p, seed, layers):
    """Yield MASC without the noise: the first layer is best, a wrong p costs three points."""
    for i, layer in enumerate(layers):
        for setting, loss in {"p": 0.0, "p - 0.1": 0.03, "p + 0.1": 0.03}.items():
            value = masc(p, 1, seed) + 0.2 - 0.04 * i - loss
            more = {"fitted_on": "noisy", "setting": setting}
            yield _accuracy("corrected_subspaces", layer, "masc", value, **more)
    for metric, value in relabelled(p, "true").items():
        which = {"experiment": "corrected_retraining", "layer": layers[0], "probe": "masc", "split": "train"}
        yield {**which, "fitted_on": "noisy", "metric": metric, "value": value}
    for split in ("evaluation", "validation"):
        for epoch in range(3):
            more = {"fitted_on": "noisy", "setting": "early_stopping", "epoch": epoch}
            value = network(p, seed) + 0.1 * epoch
            yield _accuracy("corrected_retraining", "output", "network", value, split, **more)


def _similarity(p, seed, layers):
    for i, layer in enumerate(layers):
        value = 0.9 - 0.3 * p - 0.05 * i + 0.01 * seed
        yield {"experiment": "similarity", "layer": layer, "metric": "cka", "value": value}
        for fitted_on in ("noisy", "true"):
            for k in range(3):
                for metric, shift in {"principal_cosine": 0.0, "principal_cosine_chance": -0.2}.items():
                    more = {"fitted_on": fitted_on, "class": k, "metric": metric}
                    yield {
                        "experiment": "similarity",
                        "layer": layer,
                        "value": value - 0.05 * k + shift,
                        **more,
                    }


def _dynamics(p, seed, layers):
    for epoch in (0, 1, 2, 5, 10, 20, 50):
        learnt = 1 - 0.5 ** (epoch / 3)
        yield _accuracy("dynamics", "output", "network", 0.1 + learnt * (0.7 - 0.5 * p), epoch=epoch)
        for i, layer in enumerate(layers):
            for j, probe in enumerate(("masc", "velpic", "logistic")):
                value = 0.3 + learnt * (masc(p, i, seed) - 0.3) - 0.03 * j
                yield _accuracy("dynamics", layer, probe, value, fitted_on="noisy", epoch=epoch)
            yield _accuracy("dynamics", layer, "masc", 0.2, fitted_on="noisy", epoch=epoch, setting="1pc")


def with_optimizers(rows):
    """Return rows of SGD and their copies with Adam, 5 points better."""
    words = "optimizer adam, learning_rate 0.0001, momentum 0.0"
    of = rows[rows["pair"] == "mlp-mnist"]
    adam = of.assign(variant=words, key="adam" + of["key"], value=of["value"] + 0.05)
    return pd.concat([rows, adam], ignore_index=True)


def with_subset(rows):
    """Return rows of all images and their copies of 1,000 images, 10 points worse."""
    few = rows.assign(variant="subset 1000, target 0.99", key="few" + rows["key"], value=rows["value"] - 0.1)
    return pd.concat([rows, few.assign(subset=pd.array([1000] * len(few), "Int64"))], ignore_index=True)


def histories(pairs=("mlp-mnist",), degrees=DEGREES, seeds=3, human=(), subset=None):
    """Return histories: run columns and accuracies; seed s stops after 5 + s epochs."""
    records = [
        run
        | {"epoch": epoch, "loss": 1 / epoch, "seconds": 1.0}
        | {"train_accuracy": 0.1 * epoch, "true_accuracy": 0.05 * epoch, "test_accuracy": 0.07 * epoch}
        for run in runs(pairs, degrees, seeds, subset, human)
        for epoch in range(1, 6 + run["seed"])
    ]
    columns = ["epoch", "loss", "train_accuracy", "true_accuracy", "test_accuracy", "seconds"]
    return pd.DataFrame(records)[[*RUN, *columns]].astype({"subset": "Int64"})


def edited(history, epoch=2, gain=0.1):
    """Return histories and their copies that were edited after an epoch and gained from it."""
    what = f"edit velpic after epoch {epoch}"
    copy = history.assign(
        variant=[", ".join(filter(None, [variant, what])) for variant in history["variant"]],
        key="edited" + history["key"].str[6:],
        test_accuracy=history["test_accuracy"] + gain * (history["epoch"] > epoch),
    )
    return pd.concat([history, copy], ignore_index=True)


def table1(pairs=("mlp-mnist",)):
    """Return published numbers in the layout of the published Table 1."""
    return pd.DataFrame(
        {
            "pair": pair,
            "corruption": p,
            "model_test": 0.5,
            "masc_noisy_best_layer": 0.6,
            "masc_true_best_layer": 0.7,
            "model_peak_epoch_test": 0.8,
        }
        for pair in pairs
        for p in (0.2, 0.4, 0.6, 0.8)
    )
