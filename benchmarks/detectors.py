"""Compare the audit with published detectors of wrong labels, on the same rows and views.

python benchmarks/detectors.py [--data DATA] [--seeds 0 1 2] [--dataset NAME ...] [--noise NAME ...]

Each run trains one small network on noisy labels until it has memorised them, audits it with a noisy
hold-out, and scores all detectors of `layerprobe.baselines` on every layer that the audit reads. It adds one
row per detector and layer to results/audit/detectors.csv, and its settings to results/audit/detectors.json;
runs in these files are skipped. Only the AUROC uses the true labels. `--table` prints the best layer of each
detector, chosen by the AUROC itself, which favours the detectors; the audit has one row.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import truncnorm
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from layerprobe import audit, baselines
from layerprobe.data import ImageSet, human_labels, load, noise
from layerprobe.networks import MLP, build
from layerprobe.training import Recipe, Seeds, provenance, seeded, train
from layerprobe.utils.files import replace_file

FOLDER = Path(__file__).parents[1] / "results" / "audit"
ROWS, RUNS = FOLDER / "detectors.csv", FOLDER / "detectors.json"
COLUMNS = ["dataset", "noise", "seed", "detector", "layer", "auroc"]
DETECTORS = {name: baselines.create(name) for name in baselines.available()} | {
    "fine, alignment": baselines.FINE(mixture=False),
    **{f"deep_knn, k={k}": baselines.DeepKNN(k) for k in (50, 200)},
    **{
        f"simifeat_{kind.__name__[8:].lower()}, k=50": kind(50)
        for kind in (baselines.SimiFeatVote, baselines.SimiFeatRank)
    },
}
NOISE = ("uniform 0.2", "uniform 0.4", "pair 0.2", "instance 0.2")
HUMAN = ("human worst", "human random1")


VIEWS = ("flip", "right", "down")
MLP_LAYERS, CNN_LAYERS = ("input", "fc1", "fc2"), ("input", "flatten", "fc1", "fc2", "fc3")


@dataclass(frozen=True)
class Setting:
    """Rows, network and views of one data set."""

    images: str
    rows: int
    holdout: int
    views: tuple[str, ...]
    noise: tuple[str, ...]
    layers: tuple[str, ...] = MLP_LAYERS
    network: str = "mlp"


SETTINGS = {
    "digits": Setting("digits", 1000, 400, (), NOISE),
    "fashion-mnist": Setting("fashion-mnist", 2000, 1000, VIEWS, NOISE),
    "cifar-10": Setting("cifar-10", 2000, 1000, VIEWS, NOISE + HUMAN),
    "fashion-mnist, CNN": Setting("fashion-mnist", 2000, 1000, VIEWS, NOISE, CNN_LAYERS, "cnn-fashion-mnist"),
    "cifar-10, CNN": Setting("cifar-10", 2000, 1000, VIEWS, NOISE + HUMAN, CNN_LAYERS, "cnn-cifar10"),
}


def main(names: list[str], kinds: list[str], seeds: list[int], root: Path | None) -> None:
    for seed in seeds:
        for name in names:
            for kind in SETTINGS[name].noise:
                if (not kinds or kind in kinds) and not done(name, kind, seed):
                    add(name, kind, seed, *run(SETTINGS[name], kind, seed, root))


def run(setting: Setting, kind: str, seed: int, root: Path | None) -> tuple[pd.DataFrame, dict]:
    """Train one network and compare; return the rows and the record of the run."""
    start = time.process_time()
    seeds, images = Seeds.derive(seed), load(setting.images, root)
    order = np.random.default_rng([seed, 1]).permutation(len(images.train_labels))
    rows, aside = np.split(order[: setting.rows + setting.holdout], [setting.rows])
    labels = noisy_labels(images, kind, seeds.noise, root)
    x, held_x = inputs(images.train_images[rows]), inputs(images.train_images[aside])
    y, held_y = torch.from_numpy(labels[rows]), torch.from_numpy(labels[aside])
    true = images.train_labels[rows]

    with seeded(seeds.init):
        mlp = setting.network == "mlp"
        model = MLP(x[0].numel(), (256, 256)) if mlp else build(setting.network)
    logits: list[torch.Tensor] = []

    def record(epoch: object) -> None:
        with torch.inference_mode():
            logits.append(torch.cat([model.eval()(part) for part in x.split(500)]))

    recipe = Recipe("adam", 1e-3, 32, target=0.97, max_epochs=60)
    trained = train(model, x, y, recipe, order_seed=seeds.order, test=(held_x, held_y), on_epoch=record)
    history = torch.stack(logits).numpy()
    found = audit(
        model.eval(),
        (x, y),
        policy="noisy_holdout",
        holdout=(held_x, held_y),
        views=setting.views,
        layers=setting.layers,
        history=[epoch.test_accuracy for epoch in trained],
        seed=seed,
    )
    seconds = {"network and audit": time.process_time() - start}
    start = time.process_time()
    parts = {"all epochs": 1, "first half of the epochs": 2, "first quarter of the epochs": 4}
    table = found.compare(
        DETECTORS,
        true_labels=true,
        pred_probs=cross_validated(found, y.numpy()),
        history={part: history[: max(1, len(history) // share)] for part, share in parts.items()},
    )
    seconds["detectors"] = time.process_time() - start
    return table[["detector", "layer", "auroc"]], {
        "setting": asdict(setting),
        "seeds": asdict(seeds),
        "recipe": asdict(recipe),
        "policy": "noisy_holdout",
        "wrong": float((y.numpy() != true).mean()),
        "epochs": len(trained),
        "train_accuracy": trained[-1].train_accuracy,
        "cpu_seconds": seconds,
    }


def inputs(images: np.ndarray) -> torch.Tensor:
    """Return images as floats (n, c, h, w) between -1 and 1."""
    x = torch.from_numpy(images.astype(np.float32))
    x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x[:, None]
    return x / (x.max() / 2) - 1


def noisy_labels(images: ImageSet, kind: str, seed: int, root: Path | None) -> np.ndarray:
    """Return noisy labels of the whole training set."""
    name, degree = kind.split()
    if name == "human":
        return human_labels("cifar-10n", degree, root).labels
    true, K = images.train_labels, int(images.train_labels.max()) + 1
    if name == "instance":
        return instance_dependent(images.train_images, true, float(degree), K, seed)
    draw = {"uniform": noise.uniform, "pair": noise.pair_flip}[name]
    return draw(true, float(degree), num_classes=K, seed=seed).labels


def instance_dependent(images: np.ndarray, true: np.ndarray, degree: float, K: int, seed: int) -> np.ndarray:
    """Draw labels whose errors depend on the image (Xia et al., NeurIPS 2020, Algorithm 2).

    The probability q of an error is drawn per image from a normal distribution of mean `degree` and standard
    deviation .1, truncated to [0, 1]. The wrong class follows the softmax of the image times a random matrix
    of its true class, without the true class.
    """
    rng = np.random.default_rng(seed)
    x = images.reshape(len(images), -1).astype(np.float64) / images.max()
    q = truncnorm.rvs(-degree / 0.1, (1 - degree) / 0.1, degree, 0.1, size=len(x), random_state=rng)
    labels = true.copy()
    for k in range(K):
        rows = np.flatnonzero(true == k)
        scores = x[rows] @ rng.standard_normal((x.shape[1], K))
        scores[:, k] = -np.inf
        p = np.exp(scores - scores.max(1, keepdims=True))
        p *= q[rows, None] / p.sum(1, keepdims=True)
        p[:, k] = 1 - q[rows]
        labels[rows] = (p.cumsum(1) < rng.random((len(rows), 1))).sum(1).clip(max=K - 1)
    return labels


def cross_validated(found, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return out-of-sample probabilities of a logistic regression on each layer, by five folds."""
    outputs = found.reader.read(found.rows).mean
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=50))
    return {
        f"logistic regression on {layer}, five folds": cross_val_predict(
            model, X.double().numpy(), y, cv=5, method="predict_proba"
        )
        for layer, X in outputs.items()
    }


def done(dataset: str, kind: str, seed: int) -> bool:
    """Return whether the rows of this run exist."""
    if not ROWS.exists():
        return False
    rows = pd.read_csv(ROWS)
    return bool(((rows["dataset"] == dataset) & (rows["noise"] == kind) & (rows["seed"] == seed)).any())


def add(dataset: str, kind: str, seed: int, table: pd.DataFrame, record: dict) -> None:
    """Append the rows of a run and its record."""
    table = table.assign(dataset=dataset, noise=kind, seed=seed, auroc=table["auroc"].round(5))[COLUMNS]
    runs = json.loads(RUNS.read_text()) if RUNS.exists() else []
    runs.append({"dataset": dataset, "noise": kind, "seed": seed, **record, **provenance()})
    replace_file(RUNS, (json.dumps(runs, indent=1) + "\n").encode())
    table.to_csv(ROWS, mode="a", header=not ROWS.exists(), index=False)
    print(json.dumps(record), best_layers(table).to_string(), sep="\n", flush=True)


def best_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the AUROC of each detector at its best layer, averaged over seeds, and the lead of the audit.

    Variants of a detector ("simifeat_rank, k=50") count as layers of it.
    """
    detector = rows["detector"].str.split(",").str[0]
    best = rows.assign(detector=detector).groupby(["dataset", "noise", "seed", "detector"])["auroc"].max()
    means = best.reset_index().pivot_table("auroc", ["dataset", "noise"], "detector", sort=False)
    rivals = means.drop(columns="audit")
    return means.assign(**{"best rival": rivals.idxmax(axis=1), "lead": means["audit"] - rivals.max(axis=1)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("LAYERPROBE_DATA"))
    parser.add_argument("--dataset", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--noise", nargs="+", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the table of the rows that exist")
    given = parser.parse_args()
    if given.table:
        print(best_layers(pd.read_csv(ROWS)).round(3).T.to_string())
    else:
        main(given.dataset, given.noise, given.seeds, given.data)
