"""Measure what an audit says about labels, before and after simulated reviews.

python benchmarks/trust.py [--data DATA] [--seeds 0] [--dataset NAME ...]

Each run trains one small network on noisy labels, audits it with a noisy hold-out, and compares every
announced number with the truth. Then reviewers answer `Audit.review_sample` from the true labels: all right,
or 3 % of their decisions wrong. The runs add rows to results/audit/trust.csv and trust.json; runs in these
files are skipped. `--table` prints the summary, results/audit/trust_summary.csv.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from detectors import inputs, instance_dependent
from sklearn.datasets import load_breast_cancer, make_classification

from layerprobe import audit
from layerprobe.auditing import Audit
from layerprobe.data import human_labels, load, noise
from layerprobe.networks import MLP
from layerprobe.training import Recipe, Seeds, provenance, seeded, train
from layerprobe.utils.files import replace_file

FOLDER = Path(__file__).parents[1] / "results" / "audit"
ROWS, RUNS, SUMMARY = FOLDER / "trust.csv", FOLDER / "trust.json", FOLDER / "trust_summary.csv"
NOISE = ("none", "uniform 0.05", "uniform 0.2", "uniform 0.6", "pair 0.2", "one class 0.5", "instance 0.2")
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
DRAWS = 20  # reviews per audit, size and error rate
REVIEWS = [(n, error) for n in (100, 200) for error in (0.0, 0.03)]


def main(names: list[str], seeds: list[int], root: Path | None) -> None:
    for seed in seeds:
        for epochs in (60, 6):  # memorised, and stopped early
            for name in names:
                kinds = (*NOISE, *(["human worst"] if name == "cifar-10" else []))
                for kind in kinds if epochs == 60 else ["uniform 0.2"]:
                    if not done(name, kind, epochs, seed):
                        add(run(name, kind, epochs, seed, root))
                        print(name, kind, epochs, seed, flush=True)


def run(name: str, kind: str, epochs: int, seed: int, root: Path | None) -> tuple[list[dict], dict]:
    """Train one network, audit it and review it; return rows of measurements and the record of the run."""
    start = time.process_time()
    seeds = Seeds.derive(seed)
    X, true = read(name, seed, root)
    labels = noisy_labels(name, X, true, kind, seeds.noise, root)
    order = np.random.default_rng([seed, 1]).permutation(len(true))
    n, m = SIZES[name]
    rows, aside = order[:n], order[n : n + m]
    K = int(true.max()) + 1
    x = torch.from_numpy(X.reshape(len(X), -1).astype(np.float32))
    y = torch.tensor(labels)
    with seeded(seeds.init):
        model = MLP(x.shape[1], (256, 128), K)
    recipe = Recipe("adam", 1e-3, 32, target=0.97, max_epochs=epochs)
    trained = train(model, x[rows], y[rows], recipe, order_seed=seeds.order)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = audit(
            model.eval(),
            (x[rows], y[rows]),
            policy="noisy_holdout",
            holdout=(x[aside], y[aside]),
            class_names=range(K),
            seed=seed,
        )
    cell = {"dataset": name, "noise": kind, "epochs": epochs, "seed": seed}
    results = [{**cell, "reviewed": 0, "error": 0.0, **announced(found, true[rows])}]
    for size, error in REVIEWS:
        results.append({**cell, "reviewed": size, "error": error, **reviewed(found, true[rows], size, error)})
    return results, {
        **cell,
        "recipe": recipe.__dict__,
        "seeds": seeds.__dict__,
        "train_accuracy": trained[-1].train_accuracy,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def read(name: str, seed: int, root: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, ...) and true classes of a data set."""
    if name == "breast cancer":
        X, true = load_breast_cancer(return_X_y=True)
        return (X - X.mean(0)) / X.std(0), true
    if name.startswith("made up"):
        separation = 2.5 if "separable" in name else 0.35
        options = {"n_features": 20, "n_informative": 10, "n_classes": 5, "n_clusters_per_class": 1}
        return make_classification(2200, class_sep=separation, flip_y=0, random_state=seed, **options)
    if name == "docstrings":
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        from layerprobe.data import docstrings

        data = docstrings()
        texts = TfidfVectorizer(sublinear_tf=True, min_df=3).fit_transform(data.train_texts)
        X = (TruncatedSVD(100, random_state=0).fit_transform(texts) * 10).astype(np.float32)
        first = np.unique(X.round(4), axis=0, return_index=True)[1]  # some texts have equal words
        return X[first], data.train_labels[first]
    images = load(name.partition(",")[0], root)
    pixels, true = images.train_images, images.train_labels
    if name.startswith("cifar-100"):
        pixels, true = pixels[true < 10], true[true < 10]
    return inputs(pixels).numpy(), true


def noisy_labels(
    name: str, X: np.ndarray, true: np.ndarray, kind: str, seed: int, root: Path | None
) -> np.ndarray:
    """Return the labels of all rows with one kind of noise."""
    K, (word, _, degree) = int(true.max()) + 1, kind.rpartition(" ")
    if kind == "none":
        return true.copy()
    if word == "human":
        return human_labels("cifar-10n", degree, root).labels
    if word == "instance":
        return instance_dependent(X - X.min(), true, float(degree), K, seed)
    if word == "one class":
        moved = (true == 0) & (np.random.default_rng(seed).random(len(true)) < float(degree))
        return np.where(moved, 1, true)
    draw = {"uniform": noise.uniform, "pair": noise.pair_flip}[word]
    drawn = float(degree) * K / (K - 1) if word == "uniform" else float(degree)  # a drawn label may be right
    return draw(true, min(drawn, 0.9), num_classes=K, seed=seed).labels


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


def announced(found: Audit, true: np.ndarray) -> dict[str, object]:
    """Compare what the audit says without a review with the truth."""
    real, wrong = truth(found, true), found.y.numpy() != true
    evidence = found.evidence.set_index("quantity")
    _, low, high = evidence.loc["wrong labels", ["value", "low", "high"]]

    def f1(flags: np.ndarray) -> float:
        return 2 * (flags & wrong).sum() / max(flags.sum() + wrong.sum(), 1)

    return {
        **{f"true_{name}": value for name, value in real.items()},
        "kind": evidence["kind"]["wrong labels"],
        "rate": found.noise.rate,
        "noise_error": abs(found.noise.rate - real["noise"]),
        "noise_held": float(low <= real["noise"] <= high),
        "precision_error": abs(found.expected_precision - real["precision"]),
        "f1": f1(found.issue_mask()),
        "f1_at_true_number": f1(found.with_flags(int(wrong.sum())).issue_mask()),
        "advice": found.advice,
        "old_verdict": old_verdict(found),
    }


def old_verdict(found: Audit) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return found.verdict


def reviewed(found: Audit, true: np.ndarray, size: int, error: float) -> dict[str, object]:
    """Review samples of one size, and return how often the intervals hold and the advice is right."""
    real, given, K = truth(found, true), found.y.numpy(), len(found.classes)
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
        label = np.where(rng.random(len(places)) < error, other, right)
        review = found.apply(pd.DataFrame({"index": places, "label": label}), n=size, seed=seed).review
        for name in names:
            value, low, high = getattr(review, name)
            if np.isfinite(real[name]) and np.isfinite(value):
                held[name].append(low - 1e-9 <= real[name] <= high + 1e-9)
                errors[name].append(abs(value - real[name]))
        advice.append(review.advice)
    best = "relabel" if real["gain"] > 0 else "keep"
    return {
        **{f"{name}_held": np.mean(values) if values else np.nan for name, values in held.items()},
        **{f"{name}_error": np.mean(values) if values else np.nan for name, values in errors.items()},
        "advice_right": np.mean([one == best for one in advice]),
        "advice_wrong": np.mean([one not in (best, "review") for one in advice]),
    }


def done(name: str, kind: str, epochs: int, seed: int) -> bool:
    """Return whether the rows of this run exist."""
    if not ROWS.exists():
        return False
    rows = pd.read_csv(ROWS)
    cell = (rows["dataset"] == name) & (rows["noise"] == kind) & (rows["epochs"] == epochs)
    return bool((cell & (rows["seed"] == seed)).any())


def add(result: tuple[list[dict], dict]) -> None:
    """Append the rows of a run and its record."""
    rows, record = pd.DataFrame(result[0]).round(4), result[1]
    before = [pd.read_csv(ROWS)] if ROWS.exists() else []
    replace_file(ROWS, pd.concat([*before, rows]).to_csv(index=False).encode())
    runs = json.loads(RUNS.read_text()) if RUNS.exists() else {"provenance": provenance(), "runs": []}
    runs["runs"].append(record)
    replace_file(RUNS, (json.dumps(runs, indent=1, default=str) + "\n").encode())


def summary() -> pd.DataFrame:
    """Return means over the runs: by kind of noise, and over all."""
    rows = pd.read_csv(ROWS)
    keys = ["reviewed", "error"]
    parts = [rows.assign(noise="all"), rows]
    table = pd.concat(
        part.groupby(["noise", *keys]).agg(
            audits=("dataset", "size"),
            datasets=("dataset", "nunique"),
            **{
                name: (name, "mean")
                for name in rows
                if name.endswith(("_held", "_error", "_right", "_wrong")) or name.startswith("f1")
            },
        )
        for part in parts
    )
    return table.round(3).reset_index()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dataset", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        torch.set_num_threads(1)
        main(arguments.dataset, arguments.seeds, arguments.data)
    frame = summary()
    replace_file(SUMMARY, frame.to_csv(index=False).encode())
    print(frame.to_string(index=False))
