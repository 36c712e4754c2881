"""The demo: probe every layer of networks that memorised noisy labels of digits, and audit these labels."""

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from layerprobe.auditing import audit
from layerprobe.data import load
from layerprobe.data.noise import uniform
from layerprobe.errors import InputError
from layerprobe.figures import accuracy_over_layers, save
from layerprobe.layerwise import probe
from layerprobe.networks import MLP
from layerprobe.pages import write_html
from layerprobe.probes import available, create
from layerprobe.report import accuracies, by_layer, by_probe, finding
from layerprobe.report.progress import show_progress
from layerprobe.runs.progress import Progress, State, follow_progress
from layerprobe.training import Epoch, Recipe, Seeds, provenance, seeded, train
from layerprobe.utils.files import replace_file, replaced_folder, require_folder, write_csv
from layerprobe.utils.terminal import print_table, say

DATA = "digits"
HIDDEN = (256, 512, 512)
RECIPE = Recipe("adam", learning_rate=1e-3, batch_size=32)


@dataclass(frozen=True)
class Spec:
    """Settings of a demo."""

    corruption: float = 0.6  # probability in [0, 1] that a training label is redrawn from all classes
    seeds: int = 3  # number of networks; noise, initial weights and batch order of network s derive from s
    variance: float = 0.99  # share in (0, 1] of the variance of each class that the subspaces of MASC keep

    def __post_init__(self) -> None:
        if not 0 <= self.corruption <= 1:
            raise InputError(f"corruption must be a probability in [0, 1], got {self.corruption}")
        if self.seeds < 1:
            raise InputError(f"seeds must be the number of networks, at least 1, got {self.seeds}")
        if not 0 < self.variance <= 1:
            raise InputError(f"variance must be a share above 0 and up to 1, got {self.variance}")


@dataclass(frozen=True)
class DemoAudit:
    """Finding of an audit without the true labels, and its precision and recall by the true labels."""

    finding: str
    flagged: int
    precision: float  # share of the flagged labels that are wrong
    recall: float  # share of the wrong labels that are flagged
    wrong: float  # share of wrong labels


@dataclass(frozen=True, eq=False)
class Demo:
    """Results of a demo."""

    spec: Spec
    rows: pd.DataFrame  # columns corruption and seed, then those of `layerprobe.layerwise.probe`
    history: pd.DataFrame  # columns corruption and seed, then those of `layerprobe.training.Epoch`
    audit: DemoAudit  # of the first network
    seconds: float  # wall time of the whole run

    def networks(self) -> pd.DataFrame:
        """Return one row per network: its last epoch, and its best epoch by test accuracy."""
        by_seed = self.history.groupby("seed")
        last = by_seed.last()
        best = self.history.loc[by_seed["test_accuracy"].idxmax()].set_index("seed")
        columns = {
            "epochs": last["epoch"],
            "memorised": last["train_accuracy"] >= RECIPE.target,
            "train_accuracy": last["train_accuracy"],
            "test_accuracy": last["test_accuracy"],
            "best_epoch": best["epoch"],
            "best_test_accuracy": best["test_accuracy"],
            "seconds": by_seed["seconds"].sum(),
        }
        return pd.DataFrame(columns).reset_index()

    def provenance(self) -> dict[str, Any]:
        """Return how the results were made, as JSON values: settings, seeds, data, versions, host, time."""
        return {
            "spec": asdict(self.spec) | {"data": DATA, "hidden": HIDDEN, "recipe": asdict(RECIPE)},
            "seeds": {seed: asdict(Seeds.derive(seed)) for seed in range(self.spec.seeds)},
            "data_sha256": load(DATA).fingerprint,
            **provenance(),
            "seconds": round(self.seconds, 1),
        }

    def summary(self) -> dict[str, Any]:
        """Return the results as JSON values: the finding, the networks, accuracies over seeds."""
        return {
            "finding": finding(self.rows),
            "networks": self.networks().to_dict("records"),
            "test_accuracy": accuracies(self.rows).to_dict("records"),
            "audit": asdict(self.audit),
        }

    def show(self, out: Path) -> None:
        """Print the table, the networks that did not reach their target, the findings and the folder."""
        frame, networks, audit = by_layer(self.rows), self.networks(), self.audit
        columns = [name.replace(", ", ",\n") for name in frame.columns]
        print_table(columns, frame.to_numpy(), title="Test accuracy in %, mean (range over seeds)")
        for seed in networks.loc[~networks["memorised"], "seed"]:
            say(f"The network of seed {seed} did not reach its target accuracy; see history.csv.")
        best = 100 * networks["best_test_accuracy"].mean()
        say(f"At their best epochs, known only from test labels, the networks reached {best:.1f} %.")
        say(finding(self.rows))
        say(f"\nAudit of the labels of seed 0, without true labels: {audit.finding}")
        say(
            f"The true labels say: {100 * audit.wrong:.1f} % are wrong; {100 * audit.precision:.1f} % of the "
            f"{audit.flagged:,} flagged labels are wrong, and {100 * audit.recall:.1f} % of the wrong labels "
            "are flagged."
        )
        say(
            f"All results are in {out}: {out / 'report.html'} on the layers, {out / 'audit.html'} on the "
            f"labels, {out / 'review.html'} to decide on labels."
        )


def run_demo(spec: Spec, out: Path) -> Demo:
    """Train and probe every network, each in a process of one thread, and write the results.

    Progress is shown on stderr.

    Parameters
    ----------
    spec : Spec
    out : Path
        Folder that gets the files when all of them are complete. Its other files are kept.

    Raises
    ------
    InputError
        If `out` or a folder above it is a file or cannot be written to.
    """
    from loky import ProcessPoolExecutor, cpu_count

    start = time.perf_counter()
    require_folder(out)
    seeds = range(spec.seeds)
    with replaced_folder(out) as folder:
        with (
            TemporaryDirectory(dir=folder) as status,
            show_progress([f"seed {seed}" for seed in seeds]) as report,
            follow_progress(partial(_read_progress, status), seeds, report),
        ):
            pool = ProcessPoolExecutor(max_workers=min(spec.seeds, cpu_count()))
            try:
                results = list(pool.map(partial(_run_seed, spec, folder=folder, status=status), seeds))
            finally:
                pool.shutdown(kill_workers=True)
        rows, history = (pd.concat([one[i] for one in results], ignore_index=True) for i in range(2))
        demo = Demo(spec, rows, history, results[0][2], seconds=time.perf_counter() - start)
        _write_files(demo, folder)
    return demo


def _run_seed(
    spec: Spec, seed: int, *, folder: Path, status: str
) -> tuple[pd.DataFrame, pd.DataFrame, DemoAudit | None]:
    """Train one network on noisy digits and probe its layers; return the rows and the history of `Demo`.

    The labels of the first network are also audited.
    """
    torch.set_num_threads(1)  # reproducible bit for bit, and faster for several small networks
    seeds = Seeds.derive(seed)
    digits = load(DATA)
    true = digits.train_labels
    noisy = uniform(true, spec.corruption, digits.num_classes, seeds.noise).labels
    x, test_x = (
        torch.tensor(images).float() / digits.max_value * 2 - 1  # to [-1, 1], as in the paper
        for images in (digits.train_images, digits.test_images)
    )
    test = test_x, torch.tensor(digits.test_labels)
    with seeded(seeds.init):
        model = MLP(x[0].numel(), HIDDEN, digits.num_classes)

    def write_progress(epoch: Epoch, state: State = "training") -> None:
        progress = Progress(state, epoch.epoch, epoch.train_accuracy)
        replace_file(_progress_path(status, seed), json.dumps(asdict(progress)).encode())

    labels = {"noisy": noisy, "true": true}
    given, right = map(torch.tensor, labels.values())
    history = train(
        model,
        x,
        given,
        RECIPE,
        order_seed=seeds.order,
        true_labels=right,
        test=test,
        on_epoch=write_progress,
    )
    write_progress(history[-1], "probing")
    probes = {name: create(name) for name in available()} | {"masc": create("masc", variance=spec.variance)}
    rows = probe(model, (x, noisy), test, train_labels=labels, probes=probes)
    audited = None
    if seed == 0:
        # Labels as noisy as the training labels: the audit sees no true label.
        held = uniform(digits.test_labels, spec.corruption, digits.num_classes, seeds.noise).labels
        audited = _audit(model, x, noisy, (test_x, held), true, folder)
    write_progress(history[-1], "done")
    frames = pd.DataFrame(rows), pd.DataFrame(map(asdict, history))
    for frame in frames:
        frame.insert(0, "corruption", spec.corruption)
        frame.insert(1, "seed", seed)
    return *frames, audited


def _audit(
    model: torch.nn.Module,
    x: torch.Tensor,
    noisy: np.ndarray,
    holdout: tuple[torch.Tensor, np.ndarray],
    true: np.ndarray,
    folder: Path,
) -> DemoAudit:
    """Audit the noisy labels of a network, write the page and the review page, and compare with the truth."""
    result = audit(model, x, noisy, policy="noisy_holdout", holdout=holdout)
    result.report(folder / "audit.html")
    flagged = result.issues["is_label_issue"].to_numpy()
    wrong = noisy != true
    hits = int((flagged & wrong).sum())
    precision = hits / max(int(flagged.sum()), 1)
    recall = hits / max(int(wrong.sum()), 1)
    return DemoAudit(result.label_finding, int(flagged.sum()), precision, recall, float(wrong.mean()))


def _progress_path(status: str, seed: int) -> Path:
    return Path(status, f"{seed}.json")


def _read_progress(status: str, seed: int) -> Progress | None:
    path = _progress_path(status, seed)
    return Progress(**json.loads(path.read_text())) if path.exists() else None


def _write_files(demo: Demo, folder: Path) -> None:
    """Write all files of a demo to an existing folder."""
    write_csv(demo.rows, folder / "rows.csv")
    write_csv(demo.history, folder / "history.csv")
    (folder / "run.json").write_text(json.dumps(demo.provenance(), indent=2) + "\n", encoding="utf-8")
    degree = f"{100 * demo.spec.corruption:g} % of the training labels redrawn"
    figure = accuracy_over_layers(demo.rows, title=f"MLP on handwritten digits, {degree}")
    save(figure, folder / "figure")
    networks = demo.networks().replace({"memorised": {True: "yes", False: "no"}}).round({"seconds": 1})
    percent = networks.columns[networks.columns.str.endswith("accuracy")]
    networks[percent] = (100 * networks[percent]).round(1)
    networks.columns = networks.columns.str.replace("_", " ")
    write_html(
        folder / "report.html",
        "report.html.j2",
        title="Accuracy of probes on every layer of a network that memorised noisy labels",
        finding=finding(demo.rows),
        figures={
            "Accuracy of MASC on the output of each layer (solid) and of the network itself (dashed). Left: "
            "subspaces from the noisy training labels. Right: subspaces from the true labels. The best "
            "layers and epochs are chosen by test accuracy, as in the paper: an upper bound where there are "
            "no test labels.": figure
        },
        tables={
            "Test accuracy in % per layer: mean (range over seeds)": by_layer(demo.rows),
            "Test accuracy in % per probe: mean over seeds": by_probe(demo.rows),
            "The networks: accuracies in %, last epoch and best epoch on the test data": networks,
        },
        leading={},
        appendix={"All rows": demo.rows},
        provenance=demo.provenance(),
    )
