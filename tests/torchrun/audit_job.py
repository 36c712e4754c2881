"""Audits that one process or several do alike; as a script, what each process has in the end."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from layerprobe import audit
from layerprobe.errors import InputError, ProcessError
from layerprobe.networks import MLP
from layerprobe.probes import NearestClassMean
from layerprobe.training import Recipe, seeded, train
from layerprobe.utils.distributed import group, rank
from layerprobe.utils.settings import one_thread

generator = torch.Generator().manual_seed(0)
CENTRES = 2 * torch.randn(3, 64, generator=generator)
TRUE = torch.arange(151) % 3
X = (CENTRES[TRUE] + 2 * torch.randn(151, 64, generator=generator)).view(-1, 1, 8, 8)
NOISY = torch.where(torch.rand(151, generator=generator) < 0.3, TRUE.roll(1), TRUE)
TRAIN, HELD = slice(0, 101), slice(101, 151)


def trained(network):
    """Trained without a process group: each process for itself, to the same bits."""
    with seeded(1):
        model = network()
    with one_thread():  # as torchrun sets it
        train(model, X[TRAIN], NOISY[TRAIN], Recipe("adam", 1e-2, 32, max_epochs=8), order_seed=0)
    return model


MODEL = trained(lambda: MLP(64, (16, 12), num_classes=3))


class Fresh(NearestClassMean):
    """A probe that no file holds."""


def brighter(x):
    return x + 0.1


def of_holdout(**options):
    names = np.array(["ant", "bee", "cat"])
    options = {"batch_size": 8, "probes": ("ridge", "masc", "ncm"), **options}
    given = (X[TRAIN], names[NOISY[TRAIN]])
    held = (X[HELD], names[NOISY[HELD]])
    return audit(MODEL, given, policy="noisy_holdout", holdout=held, inputs=brighter, **options)


def of_views():
    """One batch a pass: the second process has none."""
    return audit(
        MODEL,
        X[TRAIN],
        NOISY[TRAIN],
        policy="unseen_views",
        views=("flip", "down"),
        layers=["fc*"],
        probes=("ridge", "velpic"),
        batch_size=200,
        controls=False,
    )


def of_a_shuffling_loader(seed=0):
    data = TensorDataset(X[TRAIN], NOISY[TRAIN], torch.arange(101) * 3)
    loader = DataLoader(data, 7, shuffle=True, generator=torch.Generator().manual_seed(seed))
    held = (X[HELD], TRUE[HELD])
    return audit(MODEL, loader, policy="test_split", test=held, probes=("ridge",), controls=False)


AUDITS = {"holdout": of_holdout, "views": of_views, "loader": of_a_shuffling_loader}


def results_of(audit):
    """Every number of an audit, and what it says."""
    tables = [audit.layers, audit.controls, audit.issues]
    return {
        "tables": [table.to_json(orient="split", double_precision=15) for table in tables],
        "scores": audit.scores.tolist(),
        "noise": [audit.noise.rate, audit.noise.low, audit.noise.high, audit.noise.matrix.tolist()],
        "text": [audit.finding, audit.why, audit.advice, str(audit.classes.tolist())],
        "settings": [str(value) for key, value in audit.settings.items() if key != "inputs"],
        "index": audit.index.tolist(),
    }


def refused(call):
    try:
        call()
    except (InputError, ProcessError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(folder):
    with group(timeout_s=60):
        number = rank()
        found, ran = {}, []
        MODEL.register_forward_pre_hook(lambda _, inputs: ran.append(len(inputs[0])))
        for name, work in AUDITS.items():
            ran.clear()
            result = work()
            found[name] = results_of(result)
            found["rows"] = result.rows.n
            found[f"{name} ran"] = sum(ran)
            if number == 0:  # alone: the finished audit asks nothing of the others
                found[f"{name} predicted"] = result.predict(X[HELD]).tolist()
        found["probe"] = refused(lambda: of_holdout(probes=(Fresh(),)))
        NOISY[0] = (NOISY[0] + number) % 3
        found["labels"] = refused(of_holdout)
        NOISY[0] = (NOISY[0] - number) % 3
        # The last, since the second process is left with nobody to send to.
        found["orders"] = refused(lambda: of_a_shuffling_loader(number))
    Path(folder, f"{number}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
