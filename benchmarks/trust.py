"""Measure what an audit says about labels, before and after simulated reviews.

python benchmarks/trust.py [--data DATA] [--seeds 0 1] [--network NAME ...] [--networks FOLDER] [--minutes M]

Each case trains one small network on noisy labels, audits it with a noisy hold-out, and compares every
announced number with the truth. Then reviewers answer `Audit.review_sample` from the true labels: all right,
or 3 % of their decisions wrong. Some cases train the network again, on the given labels and on those
relabelled after 100 reviews. The cases add rows to results/audit/trust.csv and trust.json; cases in these
files are skipped, and trained networks are kept in FOLDER. Each kind of noise comes early, so that a part of
the suite covers all kinds; `--minutes` starts no case later. `--table` only writes the summaries
trust_summary.csv and noise_estimates.csv.
"""

import argparse
import json
import time
import warnings
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from detectors import inputs, instance_dependent
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.metrics import roc_auc_score
from torch import nn

from layerprobe import audit
from layerprobe.auditing import Audit
from layerprobe.auditing.method.noise import rate_by_trusted_rows
from layerprobe.data import human_labels, load, noise
from layerprobe.networks import MLP
from layerprobe.networks.architectures import BasicBlock
from layerprobe.training import Recipe, Seeds, accuracy, load_weights, provenance, save_weights, seeded, train
from layerprobe.utils.files import replace_file

FOLDER = Path(__file__).parents[1] / "results" / "audit"
ROWS, RUNS = FOLDER / "trust.csv", FOLDER / "trust.json"
SUMMARY, ESTIMATES = FOLDER / "trust_summary.csv", FOLDER / "noise_estimates.csv"
NOISE = ("none", "uniform 0.05", "uniform 0.2", "uniform 0.6", "pair 0.2", "one class 0.5", "instance 0.2")
NOISE += ("open-set 0.2", "duplicates 0.2")
HUMAN = ("human worst", "human random1")
SIZES = {  # training and held-out rows
    "digits": (1000, 400),
    "breast cancer": (380, 180),
    "made up, separable": (1500, 700),
    "made up, ambiguous": (1500, 700),
    "docstrings": (900, 400),
    "mnist": (1500, 700),
    "fashion-mnist": (1500, 700),
    "cifar-10": (1500, 700),
    "cifar-100, ten classes": (450, 140),
}
NETWORKS = {  # data sets and kinds of noise of each network
    "MLP": (tuple(SIZES), NOISE),
    "CNN": (
        ("mnist", "fashion-mnist", "cifar-10"),
        ("none", "uniform 0.2", "uniform 0.6", "pair 0.2", "instance 0.2"),
    ),
    "ResNet": (("fashion-mnist", "cifar-10"), ("none", "uniform 0.2", "pair 0.2")),
    "embedding": (("docstrings",), ("none", "uniform 0.2", "pair 0.2")),
}
MEMORISED, STOPPED = 60, 6  # epochs, at most
OUTSIDE = -1  # true class of a row of none of the classes
NEGLIGIBLE = 0.005  # share of such rows
WORDS, LENGTH = 2000, 40  # of the texts of the embedding network
DRAWS = 20  # reviews per audit, size and error rate
REVIEWS = [(n, error) for n in (100, 200) for error in (0.0, 0.03)]
RETRAINED = ("none", "uniform 0.2", "pair 0.2", "instance 0.2")
TRUSTED = 100  # rows with verified labels beside the hold-out
KEYS = ["dataset", "network", "noise", "epochs", "seed"]


@dataclass(frozen=True)
class Case:
    """One audit of the suite."""

    dataset: str
    network: str
    noise: str
    epochs: int
    seed: int


@dataclass(frozen=True, eq=False)
class Rows:
    """Training rows with noisy labels, held-out rows with noisy labels, and test rows with true labels."""

    x: torch.Tensor
    y: torch.Tensor
    true: np.ndarray
    held_x: torch.Tensor
    held_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    num_classes: int


def main(seeds: list[int], networks: list[str], folder: Path, root: Path | None, minutes: float) -> None:
    end = time.monotonic() + 60 * minutes
    for case in cases(seeds):
        if case.network in networks and case not in done() and time.monotonic() < end:
            add(run(case, folder, root))
            print(case, flush=True)


def cases(seeds: list[int]) -> list[Case]:
    """Return the suite in an order in which each kind of noise, seed and network comes early.

    The first case of each kind, in random order, comes before the second one of any kind.
    """
    found = []
    for seed in seeds:
        for network, (names, kinds) in NETWORKS.items():
            for name in names:
                human = HUMAN[: 2 if network == "MLP" else 1] if name == "cifar-10" else ()
                listed = [
                    kind for kind in (*kinds, *human) if kind != "open-set 0.2" or name != "breast cancer"
                ]
                found += [Case(name, network, kind, MEMORISED, seed) for kind in listed]
                found.append(Case(name, network, "uniform 0.2", STOPPED, seed))
    found = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
    rounds: dict[tuple, int] = {}
    numbers = []
    for case in found:
        kind = (case.noise, case.epochs, case.network == "MLP")
        numbers.append(rounds.setdefault(kind, 0))
        rounds[kind] += 1
    return [found[i] for i in np.argsort(numbers, kind="stable")]


def run(case: Case, networks: Path, root: Path | None) -> tuple[list[dict], dict]:
    """Train one network, audit it and review it; return rows of measurements and the record of the run."""
    start = time.process_time()
    rows, model, record = trained(case, networks, root)
    found = audited(case, rows, model)
    results = [{**asdict(case), "reviewed": 0, "error": 0.0, **announced(found, rows)}]
    for size, error in REVIEWS:
        measured = reviewed(found, rows.true, size, error)
        results.append({**asdict(case), "reviewed": size, "error": error, **measured})
    if case.network == "MLP" and case.noise in RETRAINED and case.epochs == MEMORISED and case.seed == 0:
        results[1] |= retrained(case, found, rows)
    return results, {**asdict(case), **record, "cpu_seconds": round(time.process_time() - start, 1)}


def trained(case: Case, networks: Path, root: Path | None) -> tuple[Rows, nn.Module, dict]:
    """Return the rows of a case, its trained network, and the record of the training; networks are kept."""
    seeds = Seeds.derive(case.seed)
    rows = draw_rows(case, seeds.noise, root)
    with seeded(seeds.init):
        model = new_network(case.network, rows)
    recipe = Recipe("adam", 1e-3, 32, target=0.97, max_epochs=case.epochs)
    record = {"recipe": asdict(recipe), "seeds": asdict(seeds)}
    path = networks / ("_".join(map(str, asdict(case).values())).replace(" ", "-") + ".safetensors")
    if path.exists():
        model.load_state_dict(load_weights(path)[0])
    else:
        train(model, rows.x, rows.y, recipe, order_seed=seeds.order)
        networks.mkdir(parents=True, exist_ok=True)
        save_weights(path, model.state_dict(), {})
    fit = accuracy(model.eval(), rows.x, rows.y)
    return rows, model, {**record, "train_accuracy": round(fit, 4)}


def audited(case: Case, rows: Rows, model: nn.Module) -> Audit:
    """Audit a network with its noisy hold-out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return audit(
            model.eval(),
            (rows.x, rows.y),
            policy="noisy_holdout",
            holdout=(rows.held_x, rows.held_y),
            class_names=range(rows.num_classes),
            seed=case.seed,
        )


def new_network(name: str, rows: Rows) -> nn.Module:
    """Return an untrained network."""
    K, x = rows.num_classes, rows.x
    if name == "MLP":
        return MLP(x[0].numel(), (256, 128), K)
    if name == "embedding":
        layers = {"words": nn.EmbeddingBag(WORDS + 1, 64, padding_idx=0), "fc1": nn.Linear(64, 128)}
        return nn.Sequential(OrderedDict(**layers, relu1=nn.ReLU(), head=nn.Linear(128, K)))
    c, side = x.shape[1], x.shape[-1]
    if name == "CNN":
        parts: list[tuple[str, nn.Module]] = []
        for i, width in enumerate((16, 32, 64), start=1):
            parts += [(f"conv{i}", nn.Conv2d(c, width, 3, padding=1)), (f"relu{i}", nn.ReLU())]
            parts.append((f"pool{i}", nn.MaxPool2d(2)))
            c, side = width, side // 2
        parts += [("flatten", nn.Flatten()), ("linear", nn.Linear(64 * side * side, 128)), ("fc1", nn.ReLU())]
        return nn.Sequential(OrderedDict([*parts, ("head", nn.Linear(128, K))]))
    parts = [
        ("conv", nn.Conv2d(c, 16, 3, padding=1, bias=False)),
        ("bn", nn.BatchNorm2d(16)),
        ("relu", nn.ReLU()),
    ]
    parts += [
        (f"block{i}", BasicBlock(a, b, s))
        for i, (a, b, s) in enumerate(((16, 16, 1), (16, 32, 2), (32, 64, 2)))
    ]
    parts += [("avgpool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("head", nn.Linear(64, K))]
    return nn.Sequential(OrderedDict(parts))


def draw_rows(case: Case, noise_seed: int, root: Path | None) -> Rows:
    """Return the rows of a case."""
    X, true = read(case.dataset, case.network, case.seed, root)
    K = int(true.max()) + 1
    kind, degree = case.noise.rpartition(" ")[::2]
    if kind == "open-set":  # a fifth of the classes is outside
        K -= max(K // 5, 1)
    labels = noisy_labels(case.dataset, X, true, case.noise, K, noise_seed, root)
    rng = np.random.default_rng([case.seed, 1])
    order = rng.permutation(len(true))
    n, m = SIZES[case.dataset]
    if kind == "open-set":
        inside, outside = order[true[order] < K], order[true[order] >= K]
        replaced = inside[: n + m][rng.random(min(n + m, len(inside))) < float(degree)]
        outside = outside[: len(replaced)]
        replaced = replaced[: len(outside)]
        X, true, labels = X.copy(), true.copy(), labels.copy()
        X[replaced], true[replaced] = X[outside], OUTSIDE
        labels[replaced] = rng.integers(K, size=len(replaced))
        order = inside
    rows, aside, test = np.split(order[: n + 2 * m], [n, n + m])
    x = torch.tensor(X)
    y, train_x, train_true = torch.tensor(labels), x[rows], true[rows]
    train_y = y[rows]
    if kind == "duplicates":  # the last tenth are copies of the first rows, with labels of their own
        last, first = slice(n - n // 10, n), slice(0, n // 10)
        copies = train_x[first].clone()
        if copies.dtype.is_floating_point:
            copies += 0.01 * float(copies.std()) * torch.from_numpy(rng.standard_normal(copies.shape)).float()
        train_x, train_true, train_y = train_x.clone(), train_true.copy(), train_y.clone()
        train_x[last], train_true[last] = copies, train_true[first]
        drawn = noisy_labels(
            case.dataset, X[rows[first]], train_true[last], f"uniform {degree}", K, noise_seed + 1, root
        )
        train_y[last] = torch.tensor(drawn)
    right = true[test] != OUTSIDE
    return Rows(
        train_x,
        train_y,
        train_true,
        x[aside],
        y[aside],
        x[test][right],
        torch.from_numpy(true[test])[right],
        K,
    )


def read(name: str, network: str, seed: int, root: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, ...) as the network takes them, and true classes, of a data set."""
    if name == "breast cancer":
        X, true = load_breast_cancer(return_X_y=True)
        return ((X - X.mean(0)) / X.std(0)).astype(np.float32), true
    if name.startswith("made up"):
        separation = 2.5 if "separable" in name else 0.35
        options = {"n_features": 20, "n_informative": 10, "n_classes": 5, "n_clusters_per_class": 1}
        X, true = make_classification(3000, class_sep=separation, flip_y=0, random_state=seed, **options)
        return X.astype(np.float32), true
    if name == "docstrings":
        return texts(network)
    images = load(name.partition(",")[0], root)
    pixels, true = images.train_images, images.train_labels
    if name.startswith("cifar-100"):
        pixels, true = pixels[true < 10], true[true < 10]
    x = inputs(pixels)
    if network == "MLP":
        return x.flatten(1).numpy(), true
    return torch.cat([nn.functional.avg_pool2d(part, 2) for part in x.split(2000)]).numpy(), true


def texts(network: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features of texts, or the numbers of their first words for an embedding network."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    from layerprobe.data import docstrings

    data = docstrings()
    if network == "embedding":
        counts = CountVectorizer(max_features=WORDS).fit(data.train_texts)
        known, split = counts.vocabulary_, counts.build_analyzer()
        X = np.zeros((len(data.train_texts), LENGTH), np.int64)
        for row, text in zip(X, data.train_texts, strict=True):
            words = [known[word] + 1 for word in split(text) if word in known][:LENGTH]
            row[: len(words)] = words
        first = np.unique(X, axis=0, return_index=True)[1]
        return X[first], data.train_labels[first]
    words = TfidfVectorizer(sublinear_tf=True, min_df=3).fit_transform(data.train_texts)
    X = (TruncatedSVD(100, random_state=0).fit_transform(words) * 10).astype(np.float32)
    first = np.unique(X.round(4), axis=0, return_index=True)[1]  # some texts have equal words
    return X[first], data.train_labels[first]


def noisy_labels(
    name: str, X: np.ndarray, true: np.ndarray, kind: str, K: int, seed: int, root: Path | None
) -> np.ndarray:
    """Return the labels of all rows with one kind of noise, each in 0..K-1."""
    word, _, degree = kind.rpartition(" ")
    if kind == "none" or word == "open-set":
        return true.copy()
    if word == "human":
        return human_labels("cifar-10n", degree, root).labels
    if word == "instance":
        return instance_dependent(X - X.min(), true, float(degree), K, seed)
    if word == "one class":
        moved = (true == 0) & (np.random.default_rng(seed).random(len(true)) < float(degree))
        return np.where(moved, 1, true)
    if word == "pair":
        return noise.pair_flip(true, float(degree), num_classes=K, seed=seed).labels
    drawn = float(degree) * K / (K - 1)  # a drawn label may be right
    return noise.uniform(true, min(drawn, 0.9), num_classes=K, seed=seed).labels


def truth(found: Audit, true: np.ndarray) -> dict[str, float]:
    """Return the true noise rate, precision and recall of the flags, and gain per changed label."""
    given, flags = found.y.numpy(), found.issue_mask()
    wrong = given != true
    proposed = found.relabel("confident").labels
    changed = proposed != given
    gain = (proposed == true).astype(int) - (given == true)
    return {
        "noise": wrong.mean(),
        "precision": wrong[flags].mean() if flags.any() else np.nan,
        "recall": wrong[flags].sum() / wrong.sum() if wrong.any() else np.nan,
        "gain": gain[changed].mean() if changed.any() else np.nan,
    }


def announced(found: Audit, rows: Rows) -> dict[str, object]:
    """Compare what the audit says without a review with the truth."""
    real, wrong = truth(found, rows.true), found.y.numpy() != rows.true
    evidence = found.evidence.set_index("quantity")
    criterion = found.findings.criterion
    low, high = found.findings.calibration.rates.quantile(torch.tensor([0.025, 0.975]).double()).tolist()

    def f1(flags: np.ndarray) -> float:
        return 2 * (flags & wrong).sum() / max(flags.sum() + wrong.sum(), 1)

    own = found.issues["label_score"].to_numpy()
    measured: dict[str, object] = {
        **{f"true_{name}": value for name, value in real.items()},
        "classes": len(found.classes),
        "agreement": criterion.value,
        "agreement_low": criterion.low,
        "kind": evidence["kind"]["wrong labels"],
        "mixture_low": low,
        "mixture_high": high,
        **{
            name.split(", ")[1] if "mixture" in name else name: v for name, v in found.noise.estimates.items()
        },
        "noise_error": abs(found.noise.rate - real["noise"]),
        **{f"noise_{end}": evidence[end]["wrong labels"] for end in ("low", "high")},
        "f1": f1(found.issue_mask()),
        "f1_at_true_number": f1(found.with_flags(int(wrong.sum())).issue_mask()),
        "auroc": roc_auc_score(wrong, -own) if 0 < wrong.sum() < len(wrong) else np.nan,
        "advice": found.advice,
        "old_verdict": old_verdict(found),
        **with_flags_of_precision(found, wrong),
        **with_trusted_rows(found, rows, real["noise"]),
    }
    low, high = float(measured["noise_low"]), float(measured["noise_high"])
    measured["noise_held"] = float(low - 1e-9 <= real["noise"] <= high + 1e-9)
    for name in ("precision", "recall"):
        value, low, high = getattr(found, f"{name}_interval")
        of = "flagged labels that are wrong" if name == "precision" else "wrong labels that are flagged"
        known = np.isfinite(real[name])
        measured |= {
            f"{name}_kind": evidence["kind"][of],
            f"{name}_error": abs(value - real[name]),
            f"{name}_held": float(low - 1e-9 <= real[name] <= high + 1e-9) if known else np.nan,
            f"{name}_width": high - low,
        }
    return measured


def with_flags_of_precision(found: Audit, wrong: np.ndarray) -> dict[str, float]:
    """Return the true precision of the flags with an expected precision of .95, and the announced one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sure = found.with_flags(0.95)
    flags = sure.issue_mask()
    return {
        "sure_flags": flags.mean(),
        "sure_precision": wrong[flags].mean() if flags.any() else np.nan,
        "sure_announced": sure.expected_precision,
    }


def with_trusted_rows(found: Audit, rows: Rows, noise_rate: float) -> dict[str, float]:
    """Return error, coverage and width of the estimate with 100 trusted rows, over draws of these rows."""
    if len(rows.test_y) < TRUSTED:
        return {}
    right = torch.from_numpy(found.predict(rows.test_x)) == rows.test_y
    agrees = torch.from_numpy(found.predict(rows.held_x)) == rows.held_y
    drawn = [
        rate_by_trusted_rows(
            right[np.random.default_rng(draw).permutation(len(right))[:TRUSTED]],
            agrees,
            rows.num_classes,
            found.n,
        )
        for draw in range(DRAWS)
    ]
    return {
        "trusted_error": float(np.nanmean([abs(one.value - noise_rate) for one in drawn])),
        "trusted_held": float(np.mean([one.low <= noise_rate <= one.high for one in drawn])),
        "trusted_width": float(np.mean([one.high - one.low for one in drawn])),
    }


def retrained(case: Case, found: Audit, rows: Rows) -> dict[str, float]:
    """Return the test accuracy of a new network, trained on the given labels, and on relabelled ones."""
    seeds = Seeds.derive(case.seed)
    sample = found.review_sample(100, 0)
    decided = pd.DataFrame({"index": sample["index"], "label": rows.true[sample["index"]]})
    after = found.apply(decided, n=100, seed=0)
    labels = {"given": found.y.numpy(), "relabelled": after.relabel("confident").labels}
    measured: dict[str, float] = {}
    for name, y in labels.items():
        with seeded(seeds.init):
            model = new_network(case.network, rows)
        recipe = Recipe("adam", 1e-3, 32, target=0.97, max_epochs=30)
        train(model, rows.x, torch.tensor(y), recipe, order_seed=seeds.order)
        measured[f"test_accuracy_{name}"] = accuracy(model.eval(), rows.test_x, rows.test_y)
    return {**measured, "retrain_advice": after.advice}


def old_verdict(found: Audit) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return found.verdict


def reviewed(found: Audit, true: np.ndarray, size: int, error: float) -> dict[str, object]:
    """Review samples of one size, and return how often the intervals hold and the advice is right."""
    given, K = found.y.numpy(), len(found.classes)
    real = truth(found, true)
    names = ("noise", "precision", "recall", "gain")
    held: dict[str, list[float]] = {name: [] for name in names}
    errors: dict[str, list[float]] = {name: [] for name in names}
    advice = []
    for seed in range(DRAWS):
        rng = np.random.default_rng([seed, size])
        sample = found.review_sample(size, seed)
        places = sample["index"].to_numpy()
        right = true[places]
        other = np.where(right == given[places], (right + 1) % K, given[places])
        label = np.where(rng.random(len(places)) < error, other, right).astype(object)
        label[label == OUTSIDE] = "none of the classes"
        frame = pd.DataFrame({"index": places, "label": label})
        review = found.apply(frame, n=size, seed=seed).review
        for name in names:
            value, low, high = getattr(review, name)
            if np.isfinite(real[name]) and np.isfinite(low):
                held[name].append(low - 1e-9 <= real[name] <= high + 1e-9)
            if np.isfinite(real[name]) and np.isfinite(value):
                errors[name].append(abs(value - real[name]))
        advice.append(review.advice)
    # Rows of none of the classes have to be found and left out, which relabelling cannot do.
    otherwise = "review" if (true == OUTSIDE).mean() > NEGLIGIBLE else "keep"
    best = "relabel" if real["gain"] > 0 else otherwise
    return {
        **{f"{name}_held": np.mean(values) if values else np.nan for name, values in held.items()},
        **{f"{name}_error": np.mean(values) if values else np.nan for name, values in errors.items()},
        "advice_right": np.mean([one == best for one in advice]),
        "advice_wrong": np.mean([one not in (best, "review") for one in advice]),
    }


def done() -> set[Case]:
    """Return the cases whose rows exist."""
    if not ROWS.exists():
        return set()
    return {Case(*cell) for cell in pd.read_csv(ROWS)[KEYS].itertuples(index=False)}


def add(result: tuple[list[dict], dict]) -> None:
    """Append the rows of a run and its record."""
    rows, record = pd.DataFrame(result[0]).round(4), result[1]
    before = [pd.read_csv(ROWS)] if ROWS.exists() else []
    replace_file(ROWS, pd.concat([*before, rows]).to_csv(index=False).encode())
    runs = json.loads(RUNS.read_text()) if RUNS.exists() else {"provenance": provenance(), "runs": []}
    runs["runs"].append(record)
    replace_file(RUNS, (json.dumps(runs, indent=1, default=str) + "\n").encode())


def summary() -> pd.DataFrame:
    """Return means over the cases: by kind of noise, by network, and over all."""
    rows = pd.read_csv(ROWS)
    measures = [
        name for name in rows if name.endswith(("_held", "_error", "_right", "_wrong")) or name[:2] == "f1"
    ]
    parts = [("all", "all"), ("noise", "noise"), ("network", "network")]
    tables = []
    for by, column in parts:
        groups = rows.assign(by=by, group="all" if by == "all" else rows[column]).groupby(
            ["by", "group", "reviewed", "error"]
        )
        named = {name: (name, "mean") for name in measures}
        tables.append(groups.agg(audits=("dataset", "size"), datasets=("dataset", "nunique"), **named))
    return pd.concat(tables).round(3).reset_index()


def noise_estimates() -> pd.DataFrame:
    """Return error and coverage of each estimator of the noise rate, by data set and kind of noise."""
    rows = pd.read_csv(ROWS).query("reviewed == 0").reset_index(drop=True)
    true = rows["true_noise"]
    columns = {
        "mixture_held_out_error": abs(rows["held-out rows"] - true),
        "mixture_training_error": abs(rows["training rows"] - true),
        "mixture_held": ((rows["mixture_low"] <= true) & (true <= rows["mixture_high"])).astype(float),
        "hoc_error": abs(rows["neighbours, HOC"] - true),
        "span_held": rows["noise_held"].astype(float),
        "span_width": rows["noise_high"] - rows["noise_low"],
        "known": (rows["kind"] == "estimated").astype(float),
        "known_held": rows["noise_held"].astype(float).where(rows["kind"] == "estimated"),
        **{name: rows[name] for name in ("trusted_error", "trusted_held", "trusted_width")},
    }
    frame = rows[["dataset", "noise"]].assign(**columns)
    tables = [frame.groupby(["dataset", "noise"])]
    tables += [frame.assign(noise="all").groupby(["dataset", "noise"])]
    tables += [frame.assign(dataset="all").groupby(["dataset", "noise"])]
    tables += [frame.assign(dataset="all", noise="all").groupby(["dataset", "noise"])]
    parts = [table.mean().assign(audits=table.size()) for table in tables]
    return pd.concat(parts).round(3).reset_index()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--networks", type=Path, default=Path("trust-networks"))
    parser.add_argument("--minutes", type=float, default=np.inf)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        torch.set_num_threads(1)
        main(arguments.seeds, arguments.network, arguments.networks, arguments.data, arguments.minutes)
    for path, frame in ((SUMMARY, summary()), (ESTIMATES, noise_estimates())):
        replace_file(path, frame.to_csv(index=False).encode())
    print(summary().query("by == 'all'").T.to_string())
