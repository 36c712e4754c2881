"""Networks for the benchmark of the audit, trained on noisy labels until they have memorised them.

Each setting is a network, a data set, a kind of noise and a number of rows. 3,000 more rows with noise of the
same kind are set aside before training, as a practitioner would; only the clean test images of the
paper have true labels. A network on disk is read, and an interrupted training is resumed.
"""

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from layerprobe.data import ImageSet, human_labels, load, noise
from layerprobe.networks import build
from layerprobe.training import Recipe, Scale, Seeds, TrainingState, seeded, train
from layerprobe.training.checkpoints import load_checkpoint, load_weights, save_checkpoint, save_weights
from layerprobe.training.loop import accuracy

HOLDOUT = 3000


@dataclass(frozen=True)
class Setting:
    """Network, data set and noise of one benchmark."""

    pair: str
    images: str
    rows: int
    kind: str  # "uniform", "pair_flip", an annotation of CIFAR-10N, or "test_images" with their own labels
    degree: float = 0.0
    target: float = 0.97

    @property
    def name(self) -> str:
        """Name of the folder."""
        degree = f"-{self.degree:g}" if self.degree else ""
        return f"{self.pair}-{self.rows}-{self.kind}{degree}"


SETTINGS = {
    setting.name: setting
    for setting in (
        *(Setting("cnn-cifar10", "cifar-10", 10_000, "uniform", p) for p in (0.2, 0.4, 0.6, 0.8)),
        Setting("cnn-cifar10", "cifar-10", 5000, "worst"),
        Setting("cnn-fashion-mnist", "fashion-mnist", 6000, "uniform", 0.4, 0.97),
        Setting("cnn-fashion-mnist", "fashion-mnist", 4000, "pair_flip", 0.2, 0.97),
        Setting("cnn-fashion-mnist", "fashion-mnist", 3000, "uniform", 0.6, 0.97),
        Setting("cnn-cifar10", "cifar-10", 10_000, "test_images"),
    )
}


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs (n, c, h, w), given labels, and true labels for the measures."""

    x: torch.Tensor
    given: torch.Tensor
    true: torch.Tensor
    holdout_x: torch.Tensor
    holdout_given: torch.Tensor
    test_x: torch.Tensor
    test_true: torch.Tensor


def data_of(setting: Setting, seed: int, root: Path | None = None) -> Data:
    """Return the rows, the hold-out and the noise of one seed; images are the same for all seeds."""
    images = load(setting.images, root)
    if setting.kind == "test_images":
        return trained_on_test_images(images)
    labels = noisy_labels(setting, images.train_labels, seed, root)
    chosen = images.subset(setting.rows + HOLDOUT).train_index  # nested: the rows are in it
    rows = images.subset(setting.rows).train_index
    aside = np.setdiff1d(chosen, rows)
    return Data(
        inputs(images.train_images[rows]),
        torch.from_numpy(labels[rows]),
        torch.from_numpy(images.train_labels[rows]),
        inputs(images.train_images[aside]),
        torch.from_numpy(labels[aside]),
        inputs(images.test_images),
        torch.from_numpy(images.test_labels.copy()),
    )


def inputs(array: np.ndarray) -> torch.Tensor:
    """Return images (n, c, h, w) as the networks take them."""
    # Channels last: the convolutions of a colour network take two thirds of the time.
    return Scale(-1, 1)(torch.from_numpy(array.copy())).contiguous(memory_format=torch.channels_last)


def trained_on_test_images(images: ImageSet) -> Data:
    """Return test images with published labels as training rows, and training images as hold-out."""
    judges, tests = np.split(images.subset(HOLDOUT + len(images.test_images)).train_index, [HOLDOUT])
    train_y = torch.from_numpy(images.train_labels.copy())
    given = torch.from_numpy(images.test_labels.copy())
    return Data(
        inputs(images.test_images),
        given,
        given,
        inputs(images.train_images[judges]),
        train_y[judges],
        inputs(images.train_images[tests]),
        train_y[tests],
    )


def noisy_labels(setting: Setting, true: np.ndarray, seed: int, root: Path | None) -> np.ndarray:
    """Return the noisy labels of the whole training set."""
    if setting.kind not in ("uniform", "pair_flip"):
        return human_labels("cifar-10n", setting.kind, root).labels
    draw = getattr(noise, setting.kind)
    return draw(true, setting.degree, num_classes=int(true.max()) + 1, seed=Seeds.derive(seed).noise).labels


def network(
    setting: Setting, seed: int, folder: Path, data: Data, *, trace: bool = False
) -> dict[str, torch.nn.Module]:
    """Return the memorised network, its best epochs (by noisy hold-out; by test), and its start."""
    folder = folder / f"{setting.name}-s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    seeds = Seeds.derive(seed)
    with seeded(seeds.init):
        model = build(setting.pair).to(memory_format=torch.channels_last)
    networks = {"untrained": _with(setting, model.state_dict())}
    if not (folder / "memorised.safetensors").exists():
        _train(setting, model, seeds.order, folder, data, trace=trace)
    for name in ("memorised", "best_noisy", "best_test"):
        networks[name] = _with(setting, load_weights(folder / f"{name}.safetensors")[0])
    return networks


def history(setting: Setting, seed: int, folder: Path) -> list[dict[str, str]]:
    """Return the measures of `network` at every epoch."""
    with (folder / f"{setting.name}-s{seed}" / "history.csv").open() as file:
        return list(csv.DictReader(file))


def _with(setting: Setting, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    model = build(setting.pair).to(memory_format=torch.channels_last)
    model.load_state_dict(weights)
    return model.eval()


def _train(
    setting: Setting, model: torch.nn.Module, order_seed: int, folder: Path, data: Data, *, trace: bool
) -> None:
    recipe = Recipe("adam", 1e-3, 128, target=setting.target, max_epochs=150)
    state_file, rows_file = folder / "state.safetensors", folder / "history.csv"
    resume, rows = None, []
    if state_file.exists():
        resume = load_checkpoint(state_file)
        rows = history(setting, int(folder.name.rpartition("-s")[2]), folder.parent)[: len(resume.history)]

    def save(state: TrainingState) -> None:
        last = state.history[-1]
        row = {**asdict(last), "clean_accuracy": accuracy(model, data.test_x, data.test_true)}
        for name, key in (("best_noisy", "test_accuracy"), ("best_test", "clean_accuracy")):
            if all(row[key] > float(earlier[key]) for earlier in rows):
                save_weights(folder / f"{name}.safetensors", state.model, {"epoch": last.epoch})
        rows.append(row)
        with rows_file.open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(rows)
        save_checkpoint(state_file, state)
        if trace:
            print(folder.name, *(f"{value:.3f}" for value in row.values()), flush=True)

    train(
        model,
        data.x,
        data.given,
        recipe,
        order_seed=order_seed,
        true_labels=data.true,
        test=(data.holdout_x, data.holdout_given),
        resume=resume,
        save=save,
    )
    save_weights(folder / "memorised.safetensors", model.state_dict(), {})
    state_file.unlink()
