"""Trainings that have equal results in one process and in several; the script is one process of a job.

The data have few rows on purpose: the last batch of 31 rows by five has one row, and the second of two
processes gets none.
"""

import json
import sys
from dataclasses import astuple, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from layerprobe.errors import InputError
from layerprobe.networks import MLP
from layerprobe.training import Recipe, Scale, load_checkpoint, save_checkpoint, seeded, train
from layerprobe.utils.distributed import group, rank, sum_over_processes

ADAM = Recipe("adam", learning_rate=1e-2, batch_size=5, max_epochs=3, target=2)
SGD = replace(ADAM, optimizer="sgd", momentum=0.9)


def rows(n=31, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(0, 3, (n,), generator=generator)


def mlp(dtype=torch.float64, seed=1):
    with seeded(seed):
        return MLP(6, (16, 16), num_classes=3).to(dtype)


def of_rows(recipe, dtype=torch.float64, **arguments):
    x, y = rows(dtype=dtype)
    model = mlp(dtype)
    tests = rows(7, dtype)
    history = train(model, x, y, recipe, order_seed=5, true_labels=y.flip(0), test=tests, **arguments)
    return model, history


def of_soft_labels_and_one_test_row():
    x, y = rows()
    model = mlp()
    soft = nn.functional.one_hot(y, 3).double() * 0.7 + 0.1
    return model, train(model, x, soft, ADAM, order_seed=5, test=(x[:1], y[:1]))


def of_images():
    """Train in float32 with convolutions in channels-last layout, a frozen layer and an unused parameter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (41, 6, 6, 3), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 3, (41,), generator=generator)
    with seeded(3):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
        )
    model[0].requires_grad_(False)
    model[1].register_parameter("unused", nn.Parameter(torch.ones(2)))
    model = model.to(memory_format=torch.channels_last)
    return model, train(model, x, y, replace(ADAM, batch_size=8), order_seed=1, inputs=Scale(-1, 1))


def resumed(folder):
    """Train one epoch, then resume from its checkpoint with another network."""
    path = Path(folder, "checkpoint")
    of_rows(replace(ADAM, max_epochs=1), save=lambda state: save_checkpoint(path, state))
    sum_over_processes(torch.zeros(1))  # the first process has written it
    x, y = rows()
    model = mlp(seed=rank())
    tests = rows(7)
    state = load_checkpoint(path)
    train(model, x, y, ADAM, order_seed=5, true_labels=y.flip(0), test=tests, resume=state)
    return model


TRAININGS = {
    "adam": lambda: of_rows(ADAM),
    "momentum": lambda: of_rows(SGD),
    "no shuffling": lambda: of_rows(replace(SGD, shuffle=False)),
    "one step an epoch": lambda: of_rows(replace(ADAM, batch_size=100)),
    "one row a step": lambda: of_rows(replace(ADAM, batch_size=1, max_epochs=1)),
    "soft labels": of_soft_labels_and_one_test_row,
    "float32": lambda: of_rows(ADAM, torch.float32),
    "images": of_images,
}


def dropout(seen):
    x, y = torch.ones(8, 50), torch.zeros(8, dtype=torch.int64)

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return x

    with seeded(0):
        model = nn.Sequential(nn.Dropout(0.5), Spy(), nn.Linear(50, 3))
    return model, train(model, x, y, replace(ADAM, batch_size=2, max_epochs=2), order_seed=1)


def refused(call):
    try:
        call()
    except InputError as error:
        return str(error)
    return ""


def normalised():
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).double()
    train(model, *rows(), ADAM, order_seed=0)


def main(folder):
    with group(timeout_s=60):
        number = rank()
        results, tensors = {}, {}
        for name, work in TRAININGS.items():
            model, history = work()
            results[name] = [astuple(epoch) for epoch in history]
            tensors |= {f"{name}/{key}": value.contiguous() for key, value in model.state_dict().items()}
        saves = []
        of_rows(ADAM, save=lambda state: saves.append(len(state.history)))
        tensors |= {f"resumed/{key}": value for key, value in resumed(folder).state_dict().items()}
        seen, again = [], []
        a, _ = dropout(seen)
        b, _ = dropout(again)
        results["dropout repeats"] = all(
            torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True)
        )
        tensors["masks"] = torch.cat(seen)
        results["saves"] = saves
        results["batch normalisation"] = refused(normalised)
        results["another network"] = refused(lambda: train(mlp(seed=number), *rows(), ADAM, order_seed=0))
        results["other data"] = refused(lambda: train(mlp(), *rows(31 + number), ADAM, order_seed=0))
        results["another order"] = refused(lambda: train(mlp(), *rows(), ADAM, order_seed=number))
    tasks = Path("/proc/self/task")
    results["threads"] = (
        [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.exists() else []
    )
    Path(folder, f"{number}.json").write_text(json.dumps(results))
    save_file(tensors, Path(folder, f"{number}.safetensors"))


if __name__ == "__main__":
    main(sys.argv[1])
