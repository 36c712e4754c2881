"""Measure the flags of audits of given predictions and of one embedding.

python benchmarks/predictions.py [--data DATA] [--seeds 0 1] [--dataset NAME ...] [--networks FOLDER]

Data sets and kinds of noise are those of trust.py. Each case makes out-of-sample class probabilities of the
rows, audits them, and compares F1 of the flags with that of `argmax != label`, of confident learning, and of
the audit's own ranking cut at the true number of wrong labels. "cifar-10n" audits 5,000 images with human
labels: by small CNNs in three folds, by one CNN that was trained on 40,000 other images with right labels,
and by its features. Cases add rows to results/audit/predictions.csv and predictions.json, and are skipped if
these files have them. `--table` only prints the means.
"""

import argparse
import json
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from detectors import inputs
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from trust import NOISE, SIZES, Case, Rows, draw_rows, new_network

from layerprobe import audit_features, audit_predictions
from layerprobe.auditing import Audit
from layerprobe.baselines import SelfConfidence
from layerprobe.data import human_labels, load
from layerprobe.training import Recipe, Seeds, load_weights, provenance, save_weights, seeded, train
from layerprobe.utils.files import replace_file

FOLDER = Path(__file__).parents[1] / "results" / "audit"
ROWS, RUNS = FOLDER / "predictions.csv", FOLDER / "predictions.json"
HUMAN = ("human aggre", "human random1", "human worst")
DATASETS = {name: NOISE + (HUMAN[1:] if name == "cifar-10" else ()) for name in SIZES} | {"cifar-10n": HUMAN}
AUDITED, ASIDE, SPLIT_SEED = 5_000, 10_000, 0  # images; the other 40,000 train the CNN
LOGISTIC = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=100))
COARSE, FINE = (Recipe("adam", rate, 128, max_epochs=n) for rate, n in ((2e-3, 5), (3e-4, 7)))
SMALL = Recipe("adam", 1e-3, 32, target=0.97, max_epochs=10)


def main(names: list[str], seeds: list[int], networks: Path, root: Path | None) -> None:
    for seed in seeds:
        for name in names:
            for kind in DATASETS[name]:
                if (name, kind, seed) not in done() and (name, kind) != ("breast cancer", "open-set 0.2"):
                    add(name, kind, seed, *run(name, kind, seed, networks, root))


def run(name: str, kind: str, seed: int, networks: Path, root: Path | None) -> tuple[list[dict], dict]:
    """Return the measurements of one case, one per kind of predictions, and its record."""
    start, seeds = time.process_time(), Seeds.derive(seed)
    if name == "cifar-10n":
        made, y, true, K = human_case(kind, seed, networks, root)
    else:
        rows = draw_rows(Case(name, "MLP", kind, 0, seed), seeds.noise, root)
        y, true, K = rows.y.numpy(), rows.true, rows.num_classes
        X = reduced(rows.x.flatten(1).numpy())
        made = {
            "logistic regression": folds(LOGISTIC, X, y, K),
            "20 nearest neighbours": folds(KNeighborsClassifier(20), X, y, K),
            "embedding": X,
        }
    found = [{"predictions": what, **measured(what, values, y, true, K)} for what, values in made.items()]
    return found, {"seeds": asdict(seeds), "cpu_seconds": round(time.process_time() - start, 1)}


def reduced(X: np.ndarray) -> np.ndarray:
    """Return the first 50 principal components, without labels."""
    return PCA(50, random_state=0).fit_transform(X) if X.shape[1] > 100 else X


def folds(model: object, X: np.ndarray, y: np.ndarray, K: int) -> np.ndarray:
    """Return out-of-sample probabilities (n, K) by three folds."""
    made = np.zeros((len(X), K))
    split = StratifiedKFold(3, shuffle=True, random_state=0)
    made[:, np.unique(y)] = cross_val_predict(model, X, y, cv=split, method="predict_proba")
    return made


def measured(what: str, values: np.ndarray, y: np.ndarray, true: np.ndarray, K: int) -> dict[str, object]:
    """Audit predictions, or an embedding, and compare with the truth."""
    wrong = y != true
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if what.startswith("embedding"):
            found: Audit = audit_features(values, y, class_names=range(K))
            p = found.scores.softmax(1).numpy()
        else:
            found, p = audit_predictions(values, y, class_names=range(K)), values
        sure = found.with_flags(int(wrong.sum())).issue_mask()
    noise, flags = found.evidence.iloc[0], found.issue_mask()
    confident = SelfConfidence().detect(p / p.sum(1, keepdims=True), y).flags
    return {
        "rows": len(y),
        "wrong": wrong.mean(),
        "accuracy": (p.argmax(1) == true).mean(),
        "kind": noise["kind"],
        "noise_rate": found.noise.rate,
        "noise_low": noise["low"],
        "noise_high": noise["high"],
        "noise_holds": noise["low"] - 1e-9 <= wrong.mean() <= noise["high"] + 1e-9,
        "flagged": flags.mean(),
        "precision": wrong[flags].mean() if flags.any() else np.nan,
        "f1": f1_score(wrong, flags, zero_division=0),
        "f1_argmax": f1_score(wrong, p.argmax(1) != y, zero_division=0),
        "f1_confident": f1_score(wrong, confident, zero_division=0),
        "f1_true_number": f1_score(wrong, sure, zero_division=0),
    }


# Human labels -------------------------------------------------------------------------------------------


def human_case(
    kind: str, seed: int, networks: Path, root: Path | None
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, int]:
    """Return predictions and features of CIFAR-10 images, their human labels, and their true ones."""
    images = load("cifar-10", root)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images.train_labels))
    rows = np.random.default_rng([seed, 1]).permutation(order[:ASIDE])[:AUDITED]
    y, true = human_labels("cifar-10n", kind.split()[1], root).labels[rows], images.train_labels[rows]
    model = pretrained(images.train_images, images.train_labels, order[ASIDE:], networks)
    x = halved(images.train_images[rows])
    with torch.inference_mode():
        features = torch.cat([model[:-1](part) for part in x.split(500)])
        logits = model[-1](features).double()
    return (
        {
            "CNN of three folds": cross_validated_network(x, y, seed),
            "logistic regression on pixels": folds(LOGISTIC, reduced(x.flatten(1).numpy()), y, 10),
            "logistic regression on features of the trained CNN": folds(LOGISTIC, features.numpy(), y, 10),
            "trained CNN": logits.softmax(1).numpy(),
            "embedding, features of the trained CNN": features.numpy(),
        },
        y,
        true,
        10,
    )


def halved(images: np.ndarray) -> torch.Tensor:
    """Return images of half the size as inputs of a network, (n, 3, 16, 16)."""
    return torch.cat([nn.functional.avg_pool2d(inputs(part), 2) for part in np.array_split(images, 20)])


def pretrained(images: np.ndarray, labels: np.ndarray, rows: np.ndarray, networks: Path) -> nn.Sequential:
    """Return a CNN that was trained on right labels of images that no case audits; it is kept in a file."""
    parts: list[nn.Module] = []
    for before, width in ((3, 16), (16, 32), (32, 64)):
        parts += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        parts.append(nn.MaxPool2d(2))
    with seeded(SPLIT_SEED):
        model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    path = networks / "cifar-10-right-labels.safetensors"
    if path.exists():
        model.load_state_dict(load_weights(path)[0])
        return model.eval()
    x, y = halved(images[rows]), torch.from_numpy(labels[rows])
    epochs: list = []
    for recipe in (COARSE, FINE):
        epochs += train(
            model,
            x,
            y,
            recipe,
            order_seed=SPLIT_SEED,
            earlier=epochs,
            inputs=lambda part: part.flip(3) if torch.rand(()) < 0.5 else part,
            on_epoch=lambda epoch: print(epoch, flush=True),
        )
    networks.mkdir(parents=True, exist_ok=True)
    save_weights(path, model.state_dict(), {})
    return model.eval()


def cross_validated_network(x: torch.Tensor, y: np.ndarray, seed: int) -> np.ndarray:
    """Return out-of-sample probabilities of small CNNs, each trained on the given labels of two folds."""
    made, given = np.zeros((len(y), 10)), torch.from_numpy(y)
    for fold, (rows, rest) in enumerate(StratifiedKFold(3, shuffle=True, random_state=0).split(x, y)):
        seeds = Seeds.derive(10 * seed + fold)
        with seeded(seeds.init):
            model = new_network("CNN", Rows(x, given, y, x, given, x, given, 10))
        train(model, x[rows], given[rows], SMALL, order_seed=seeds.order)
        with torch.inference_mode():
            made[rest] = model.eval()(x[rest]).double().softmax(1).numpy()
    return made


# Files --------------------------------------------------------------------------------------------------


def done() -> set[tuple[str, str, int]]:
    """Return the cases whose rows exist."""
    if not ROWS.exists():
        return set()
    return set(pd.read_csv(ROWS)[["dataset", "noise", "seed"]].itertuples(index=False, name=None))


def add(name: str, kind: str, seed: int, found: list[dict], record: dict) -> None:
    """Append the rows of a case and its record."""
    case = {"dataset": name, "noise": kind, "seed": seed}
    table = pd.DataFrame([{**case, **one} for one in found])
    print(case, table.drop(columns=["dataset", "noise", "seed"]).round(3).to_string(), sep="\n", flush=True)
    table.round(4).to_csv(ROWS, mode="a", header=not ROWS.exists(), index=False)
    runs = json.loads(RUNS.read_text()) if RUNS.exists() else []
    runs.append({**case, **record, **provenance()})
    replace_file(RUNS, (json.dumps(runs, indent=1) + "\n").encode())


def means() -> pd.DataFrame:
    """Return the mean of each measure by data set or kind of predictions, and the lead over both rules."""
    rows = pd.read_csv(ROWS)
    rows["lead"] = rows["f1"] - rows[["f1_argmax", "f1_confident"]].max(axis=1)
    rows["short"] = rows["f1_true_number"] - rows["f1"]
    groups = rows.groupby(["dataset", "noise", "predictions"], sort=False)
    return groups.mean(numeric_only=True).drop(columns=["seed", "rows"]).reset_index()


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--dataset", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--networks", type=Path, default=Path("predictions-networks"))
    parser.add_argument("--table", action="store_true", help="print the means of the rows that exist")
    given = parser.parse_args()
    if not given.table:
        main(given.dataset, given.seeds, given.networks, given.data)
    print(means().round(3).to_string())
