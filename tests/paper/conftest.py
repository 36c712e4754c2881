import pytest
import torch

from layerprobe.paper import RunSpec, execute
from layerprobe.paper.run_outputs import FinishedRun

SMALL = {"subset": 300, "test_subset": 100}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Root of a memorised and a generalised network of three epochs, alike but for their labels."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    for p in (0.0, 0.6):
        execute(RunSpec.of("mlp-digits", p, 0, max_epochs=3, **SMALL), root, checkpoints=True)
    return root


@pytest.fixture(scope="session")
def noisy_spec():
    return RunSpec.of("mlp-digits", 0.6, 0, max_epochs=3, **SMALL)


@pytest.fixture(scope="session")
def clean_spec():
    return RunSpec.of("mlp-digits", 0.0, 0, max_epochs=3, **SMALL)


@pytest.fixture(scope="session")
def memorised(runs, noisy_spec):
    return FinishedRun.of(noisy_spec, runs)


@pytest.fixture(scope="session")
def generalised(runs, clean_spec):
    return FinishedRun.of(clean_spec, runs)
