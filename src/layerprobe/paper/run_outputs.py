"""What experiments are done on: a finished run with its data, and the outputs of its layers.

All experiments on a run share one `Subject`, and so one capture pass over the training and the test data.
Where the outputs of all layers together would not fit into memory they are captured layer by layer instead.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.data import ImageSet
from layerprobe.layers import capture
from layerprobe.runs.folders import Run, build_network, load_model, read_run, run_folder
from layerprobe.runs.pairs import pair
from layerprobe.runs.specs import RunSpec, run_data
from layerprobe.training import Seeds

__all__ = ["LayerData", "Outputs", "Subject"]

Location = str | os.PathLike[str]
MEMORY = 8e9  # bytes of layer outputs that are held at a time


class LayerData(NamedTuple):
    """One layer's outputs."""

    train: Tensor  # (n, d) float32, on the CPU
    test: Tensor  # (m, d)


class Outputs(Mapping[str, LayerData]):
    """The outputs of a network's probed layers, by the paper's names, in order of execution.

    Parameters
    ----------
    model : nn.Module
        One of the paper's networks.
    train, test : Tensor of shape (n, c, h, w)
        Inputs as the network takes them.
    memory : float
        Bytes of outputs to hold at a time. If all of them fit, one capture pass serves every layer.
    """

    def __init__(self, model: nn.Module, train: Tensor, test: Tensor, memory: float = MEMORY) -> None:
        self.layers: dict[str, str] = dict(model.probed_layers)  # type: ignore[arg-type]
        self.logits: LayerData
        self._model, self._train, self._test = model, train, test
        self._held: dict[str, LayerData] = {}
        one = capture(model, test[:1], [*self.layers.values(), "output"])
        bytes_a_row = 4 * sum(rows.shape[1] for rows in one.outputs.values())
        self._whole = bytes_a_row * (len(train) + len(test)) <= memory
        self._capture([*self.layers] if self._whole else [])

    def __getitem__(self, layer: str) -> LayerData:
        if layer not in self._held:
            if layer not in self.layers:
                raise KeyError(layer)
            self._held.clear()
            self._capture([layer])
        return self._held[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def _capture(self, names: list[str]) -> None:
        wanted = [*(self.layers[name] for name in names), "output"]
        train, test = (capture(self._model, x, wanted).outputs for x in (self._train, self._test))
        self._held = {name: LayerData(train[self.layers[name]], test[self.layers[name]]) for name in names}
        self.logits = LayerData(train["output"], test["output"])


@dataclass(frozen=True, eq=False)
class Subject:
    """A finished run, ready for experiments.

    Attributes
    ----------
    run : Run
        The run; ``run.spec`` says what it is, ``run.history`` how its training went.
    images : ImageSet
        What it was trained and tested on.
    noisy : ndarray of shape (n,), int64
        The labels that it was trained on.
    root : Path
        The folder of all runs, where its siblings are.
    data_root : path, optional
        As in `layerprobe.data.load`.
    device : str
        Where networks run.
    """

    run: Run
    images: ImageSet
    noisy: np.ndarray
    root: Path
    data_root: Location | None = None
    device: str = "cpu"

    @classmethod
    def of(
        cls, spec: RunSpec, root: Location, *, data_root: Location | None = None, device: str = "cpu"
    ) -> "Subject":
        """Read a run that is done, and its data.

        Raises
        ------
        DataError
            If the run or its data are not there.
        """
        run = read_run(run_folder(root, spec))
        images, noisy = run_data(run.spec, data_root)
        return cls(run, images, noisy, Path(root), data_root, device)

    @property
    def spec(self) -> RunSpec:
        """What was trained."""
        return self.run.spec

    @property
    def true(self) -> np.ndarray:
        """The true training labels, (n,), int64."""
        return self.images.train_labels

    @property
    def test_labels(self) -> np.ndarray:
        """The true test labels, (m,), int64."""
        return self.images.test_labels

    def labels_at(self, degree: float) -> np.ndarray:
        """Return the noisy labels (n,) that this run would have learnt at another degree."""
        return run_data(replace(self.spec, corruption=degree), self.data_root)[1]

    @property
    def label_sets(self) -> dict[str, np.ndarray]:
        """Both sets of training labels by their names in rows."""
        return {"noisy": self.noisy, "true": self.true}

    @cached_property
    def inputs(self) -> LayerData:
        """Training and test inputs as the network takes them, (n, c, h, w)."""
        scale = pair(self.spec.pair).scale(self.images.max_value)
        return LayerData(
            scale(torch.tensor(self.images.train_images)), scale(torch.tensor(self.images.test_images))
        )

    def model(self, epoch: int | None = None) -> nn.Module:
        """Return the network in evaluation mode: the last epoch's, or that of an epoch that was kept."""
        return load_model(self.run.folder, epoch, self.device)

    def untrained(self) -> nn.Module:
        """Return the network as it was before training, in evaluation mode."""
        return build_network(self.spec).to(self.device).eval()

    @cached_property
    def outputs(self) -> Outputs:
        """The layer outputs of the last epoch's network, captured once for all experiments."""
        return self.outputs_of(self.model())

    def outputs_of(self, model: nn.Module) -> Outputs:
        """Return the layer outputs of another network of the same architecture on the same data."""
        return Outputs(model, *self.inputs)

    def generalised(self) -> "Subject":
        """Return the run that is alike but for clean labels (p = 0): the paper's generalised model.

        That of a run on human labels, which has no noise seed, has the one of its seed.

        Raises
        ------
        DataError
            If it is not there.
        """
        clean: dict[str, Any] = {"corruption": 0.0}
        if self.spec.corruption is None:
            noise_seed = 0 if self.spec.seed is None else Seeds.derive(self.spec.seed).noise
            clean |= {"noise": "uniform", "noise_seed": noise_seed}
        return Subject.of(
            replace(self.spec, **clean), self.root, data_root=self.data_root, device=self.device
        )
