from functools import cache

import pandas as pd
import pytest

from paper.figures import synthetic


@pytest.fixture(scope="session")
def rows():
    """Return rows of four pairs and of human labels, made once: tests only read them."""
    layers = {"cnn-cifar10": ["input", "flatten", "fc1"]}
    mlp = synthetic.frame(seeds=2)
    cnn = synthetic.frame(("cnn-cifar10",), (0.0, 0.2), seeds=2, layers=layers, human=synthetic.HUMAN)
    others = synthetic.frame(("alexnet-cifar100", "mlp-digits"), (0.4,), seeds=1)
    return pd.concat([mlp, cnn, others], ignore_index=True)


@pytest.fixture(scope="session")
def history():
    return synthetic.histories(("mlp-mnist", "cnn-cifar10"), (0.0, 0.4), human=("cifar-10n:worst",))


@pytest.fixture(scope="session")
def drawn(rows, history):
    """Draw a figure of these rows, each once."""
    from layerprobe.paper.figures import FIGURES

    histories = {"midway": synthetic.edited(history)}
    changed = {"optimizers": synthetic.with_optimizers, "training_images": synthetic.with_subset}

    def draw(name, pair=None):
        of = changed[name](rows) if name in changed else rows
        return FIGURES[name].draw(of, histories.get(name, history), pair)

    return cache(draw)
