"""A finished run with its data and the outputs of its layers, the input of every experiment.

All experiments on a run share one `FinishedRun`, and so one capture pass over the training and test data.
Where the outputs of all layers together exceed the memory limit, each layer is captured when it is read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.data import ImageSet
from layerprobe.errors import DataError, InputError, LayerError, renamed
from layerprobe.layerwise.outputs import Extractor
from layerprobe.runs.data import data_record, run_data
from layerprobe.runs.folders import Run, build_network, load_model, read_run, run_folder
from layerprobe.runs.pairs import pair
from layerprobe.runs.scheduler import Location
from layerprobe.runs.specs import RunSpec
from layerprobe.training import Seeds
from layerprobe.training.loop import check_outputs

MEMORY_LIMIT = 8e9  # bytes of layer outputs held at a time


class LayerData(NamedTuple):
    """Training and test rows of one layer."""

    train: Tensor  # (n, d) float32, on the CPU
    test: Tensor  # (m, d)


class RunOutputs(Mapping[str, LayerData]):
    """The outputs of a network's probed layers by the paper's names, in order of execution.

    Parameters
    ----------
    model : nn.Module
        One of the paper's networks.
    train, test : Tensor of shape (n, c, h, w)
        Inputs as the network takes them.
    memory : float
        Limit of the bytes of outputs held at a time. If all outputs fit, one pass serves every layer.

    Attributes
    ----------
    logits : LayerData
        The output of the network.
    """

    def __init__(self, model: nn.Module, train: Tensor, test: Tensor, memory: float = MEMORY_LIMIT) -> None:
        extractor = Extractor(model)
        per_row = memory / (len(train) + len(test))
        try:
            self._train, self._test = (extractor.extract(x, memory=per_row * len(x)) for x in (train, test))
        except LayerError as error:
            said = str(error).replace("list_layers(model, batch)", "layerprobe.list_layers")
            raise LayerError(f"the layers in {type(model).__name__}.probed_layers: {said}") from error
        if self._train.output is None or self._test.output is None:
            raise InputError("expected a network with one score per class as its output")
        self.logits = LayerData(self._train.output, self._test.output)

    def __getitem__(self, layer: str) -> LayerData:
        return LayerData(self._train[layer], self._test[layer])

    def __iter__(self) -> Iterator[str]:
        return iter(self._train)

    def __len__(self) -> int:
        return len(self._train)


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run with its data, the input of experiments."""

    run: Run  # the run; ``run.spec`` describes it, ``run.history`` is its training
    images: ImageSet  # the images that it was trained and tested on
    noisy: np.ndarray  # the labels that it was trained on
    root: Path
    data_root: Location | None = None
    device: str = "cpu"

    @classmethod
    def of(
        cls, spec: RunSpec, root: Location, *, data_root: Location | None = None, device: str = "cpu"
    ) -> "FinishedRun":
        """Read a finished run and its data.

        Parameters
        ----------
        spec : RunSpec
        root : path
        data_root : path, optional
        device : str

        Raises
        ------
        DataError
            If the run or its data are missing, or the data are not those that it was trained on.
        """
        run = read_run(run_folder(root, spec))
        images, noisy = run_data(run.spec, data_root)
        recorded, here = run.record.get("data"), data_record(images, noisy)
        if recorded and recorded != here:
            differing = ", ".join(name for name in here if recorded.get(name) != here[name])
            raise DataError(
                f"{run.folder}: the data differ from those that the run was trained on ({differing}); "
                "restore the data set or the noise, or name another root"
            )
        return cls(run, images, noisy, Path(root), data_root, device)

    @property
    def spec(self) -> RunSpec:
        """The specification of the run."""
        return self.run.spec

    @property
    def true(self) -> np.ndarray:
        """The true training labels, (n,), int64."""
        return self.images.train_labels

    @property
    def test_labels(self) -> np.ndarray:
        """The true test labels, (m,), int64."""
        return self.images.test_labels

    @property
    def label_sets(self) -> dict[str, np.ndarray]:
        """Noisy and true training labels by their names in rows."""
        return {"noisy": self.noisy, "true": self.true}

    def labels_at(self, degree: float) -> np.ndarray:
        """Return the noisy labels (n,) of this run's noise seed at another corruption degree."""
        return run_data(replace(self.spec, corruption=degree), self.data_root)[1]

    @cached_property
    def inputs(self) -> LayerData:
        """Training and test inputs as the network takes them, (n, c, h, w)."""
        scale = pair(self.spec.pair).scale(self.images.max_value)
        train, test = self.images.train_images, self.images.test_images
        return LayerData(scale(torch.tensor(train)), scale(torch.tensor(test)))

    def model(self, epoch: int | None = None) -> nn.Module:
        """Return the network in evaluation mode, of the last epoch or of an epoch whose weights were kept."""
        return load_model(self.run.folder, epoch, self.device)

    def untrained(self) -> nn.Module:
        """Return the network before training, in evaluation mode."""
        return build_network(self.spec).to(self.device).eval()

    @cached_property
    def outputs(self) -> RunOutputs:
        """The layer outputs of the last epoch's network, captured once for all experiments."""
        return self.outputs_of(self.model())

    def outputs_of(self, model: nn.Module) -> RunOutputs:
        """Return the layer outputs of another network of this architecture on the same data."""
        return RunOutputs(model, *self.inputs)

    def generalised(self) -> "FinishedRun":
        """Return the run that differs in its clean labels only (p = 0): the paper's generalised model.

        A run on human labels has no noise seed; its generalised model is that of its seed.

        Raises
        ------
        DataError
            If there is no such run.
        """
        clean: dict[str, Any] = {"corruption": 0.0}
        if self.spec.corruption is None:
            noise_seed = 0 if self.spec.seed is None else Seeds.derive(self.spec.seed).noise
            clean |= {"noise": "uniform", "noise_seed": noise_seed}
        spec = replace(self.spec, **clean)
        try:
            return FinishedRun.of(spec, self.root, data_root=self.data_root, device=self.device)
        except DataError as error:
            needed = "train the run without noise (p = 0) and with the same seeds first"
            raise DataError(f"{needed}. {error}") from error


def check_network(spec: RunSpec, images: ImageSet) -> None:
    """Try the network of a run on two training and two test images.

    Parameters
    ----------
    spec : RunSpec
    images : ImageSet
        The images of the run.

    Raises
    ------
    InputError
        If the network does not take the images, does not score all classes or lacks a probed layer.
    """
    scale = pair(spec.pair).scale(images.max_value)
    train, test = (scale(torch.tensor(part[:2])) for part in (images.train_images, images.test_images))
    network = build_network(spec).eval()
    try:
        RunOutputs(network, train, test)
        check_outputs(network(train), len(train), images.num_classes)  # layers can be captured without logits
    except (InputError, LayerError) as error:
        raise InputError(f"The network of {spec.pair} on images of {images.name!r}: {error}.") from error


__getattr__ = renamed(__name__, {"Subject": FinishedRun})
