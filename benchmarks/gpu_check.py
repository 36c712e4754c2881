"""Check a GPU and measure as many cells of the paper's tables as fit into a budget of seconds.

    python benchmarks/gpu_check.py --device cuda --budget 600 --out gpu      # ten minutes of one GPU
    python benchmarks/gpu_check.py --device cpu --budget 60 --out check      # the same steps, shortened

Steps, in this order:

1. tests: the tests of the repository whose names contain "cuda" or "device".
2. agreement: labels of MASC and losses of one epoch on the device, beside those of float64 and of the CPU.
3. stacked: three runs as one batched model, beside the same runs one after another: seconds and weights.
4. epoch: seconds of one epoch of each pair, on random images of the size of its data set.
5. cell: runs of the paper's pairs, from training to Table 1 and 5, in the order of `ORDER`.

Each result is one line of OUT/results.jsonl, written when its step ends. The same command goes on where it
stopped: steps with a result are not repeated, and a run continues after its last complete epoch. Data sets
that are missing are named and left out. The exit code is 1 if a step failed.

This script was not run on a GPU.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from layerprobe.core import fit_subspaces
from layerprobe.errors import DataError
from layerprobe.paper import PAIRS, RunSpec, execute, pair
from layerprobe.paper.analysis import analyse, gather
from layerprobe.paper.pairs import PAPER_PAIRS
from layerprobe.paper.plans import SCALES
from layerprobe.paper.tables import TABLES
from layerprobe.runs.grid import TEST_SIZES
from layerprobe.training import Recipe, provenance, seeded, train, train_stacked
from layerprobe.utils.files import replace_file

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("mlp-mnist", "cnn-fashion-mnist", "cnn-mnist", "cnn-cifar10", "mlp-cifar10")
ORDER += tuple(name for name in PAPER_PAIRS if name not in ORDER)
DEGREES = (0.4, 0.8, 0.2, 0.6)
STACKED = ("mlp-mnist", "cnn-mnist")
SHORT = 256  # images of a step on a CPU
NEVER = 2.0  # a training accuracy that is not reached
EPOCHS = 2  # of the comparison of stacked and separate runs


class BudgetError(Exception):
    """Raised when the budget is used up."""


class Budget:
    """The seconds that are left."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.monotonic()

    def check(self, *_: Any) -> None:
        """Raise BudgetError if none are left."""
        if self.left() <= 0:
            raise BudgetError


def images_of(name: str, n: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random uint8 images (n, h, w[, 3]) of a pair's size, and labels (n,)."""
    _, (channels, height, width) = TEST_SIZES[pair(name).dataset]
    shape = (n, height, width) if channels == 1 else (n, height, width, channels)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    classes = next(reversed(list(pair(name).network().state_dict().values()))).shape[0]
    return x.to(device), torch.randint(classes, (n,), generator=generator).to(device)


def network(name: str, seed: int, device: str) -> torch.nn.Module:
    with seeded(seed):
        return pair(name).network().to(device)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def tests(device: str, budget: Budget) -> dict[str, Any]:
    words = "cuda or device" if device == "cuda" else "test_device"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        words,
        str(ROOT / "tests"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1, budget.left()))
    if done.returncode not in (0, 5):  # 5: no test was selected
        raise RuntimeError(done.stdout[-2000:])
    return {"summary": done.stdout.strip().splitlines()[-1]}


def agreement(device: str, _: Budget) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2000) % 10
    centres = torch.randn(10, 64, generator=generator)
    X = torch.randn(2000, 64, generator=generator) + centres[y]
    exact = fit_subspaces(X.double(), y, 10, variance=0.99).predict(X.double())
    here = fit_subspaces(X.to(device), y.to(device), 10, variance=0.99).predict(X.to(device)).cpu()
    losses = []
    for place in ("cpu", device):
        x, labels = images_of("cnn-mnist", SHORT, "cpu")
        model = network("cnn-mnist", 0, place)
        recipe = Recipe("adam", 2e-4, 32, max_epochs=1)
        inputs = pair("cnn-mnist").scale()
        epochs = train(model, x.to(place), labels.to(place), recipe, order_seed=0, inputs=inputs)
        losses.append(epochs[0].loss)
    gap = abs(losses[1] - losses[0]) / losses[0]
    share = float((here == exact).double().mean())
    if share < 0.999 or gap > 1e-2:
        raise RuntimeError(f"the device disagrees: share of equal labels {share}, relative loss {gap}")
    return {"masc_labels_equal_to_float64": share, "loss_cpu": losses[0], "loss_device": losses[1]}


def stacked(name: str, device: str, n: int) -> dict[str, Any]:
    x, y = images_of(name, n, device)
    recipe = replace(pair(name).recipe, max_epochs=EPOCHS, target=NEVER)
    common: dict[str, Any] = {"recipe": recipe, "inputs": pair(name).scale()}
    seconds, results = [], []
    for together in (False, True):
        models = [network(name, seed, device) for seed in range(3)]
        synchronise(device)
        start = time.perf_counter()
        if together:
            train_stacked(models, x=x, ys=[y] * 3, order_seeds=[0, 1, 2], **common)
        else:
            for seed, model in enumerate(models):
                train(model, x, y, order_seed=seed, **common)
        synchronise(device)
        seconds.append(time.perf_counter() - start)
        results.append([torch.cat([w.detach().flatten() for w in model.parameters()]) for model in models])
    gaps = [float((a - b).norm() / a.norm()) for a, b in zip(*results, strict=True)]
    if max(gaps) > 1e-2:
        raise RuntimeError(f"weights of stacked and separate runs differ by {max(gaps)} of their norm")
    return {
        "images": n,
        "epochs": EPOCHS,
        "runs": 3,
        "seconds_separate": round(seconds[0], 3),
        "seconds_stacked": round(seconds[1], 3),
        "largest_relative_difference": max(gaps),
    }


def epoch(name: str, device: str, n: int) -> dict[str, Any]:
    x, y = images_of(name, n, device)
    recipe = replace(pair(name).recipe, max_epochs=2, target=NEVER)
    measured = train(network(name, 0, device), x, y, recipe, order_seed=0, inputs=pair(name).scale())
    return {"images": n, "seconds": round(measured[-1].seconds, 4)}  # the first epoch warms up


def cell(spec: RunSpec, root: Path, device: str, budget: Budget) -> dict[str, Any]:
    run = execute(spec, root, device=device, on_epoch=budget.check)
    analyse(
        spec,
        root,
        ["noisy_subspaces", "true_subspaces"],
        device=device,
        on_experiment=lambda _: budget.check(),
    )
    rows = gather([spec], root)
    result: dict[str, Any] = {"epochs": len(run.history), "training_seconds": round(run.seconds, 1)}
    for table, labels in (("table1", "noisy"), ("table5", "true")):
        frame = TABLES[table].build(rows, run.history.head(0))
        (line,) = frame[(frame["pair"] == spec.pair) & (frame["seeds"] > 0)].to_dict("records")
        numbers = {name: line[name] for name in ("network", "published_network", "masc", "published_masc")}
        result[labels] = {name: None if value != value else value for name, value in numbers.items()}
        result[labels]["layer"] = line["layer"]
    return result


def steps(
    device: str, scale: str, root: Path, budget: Budget
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the name of each step with the function that does it."""
    size = {name: SHORT if device == "cpu" else PAIRS[name].train_size for name in ORDER}
    yield "tests", lambda: tests(device, budget)
    yield "agreement", lambda: agreement(device, budget)
    for name in STACKED:
        yield f"stacked {name}", lambda name=name: stacked(name, device, min(size[name], 6400))  # type: ignore[misc]
    for name in ORDER:
        yield f"epoch {name}", lambda name=name: epoch(name, device, size[name])  # type: ignore[misc]
    for name in ORDER:
        for degree in DEGREES:
            spec = SCALES[scale].spec(name, degree, 0)
            yield f"cell {scale} {name} {degree:g}", lambda spec=spec: cell(spec, root, device, budget)  # type: ignore[misc]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--budget", type=float, default=600, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--scale", choices=list(SCALES), help="default: full on a GPU, small on a CPU")
    words = ["tests", "agreement", "stacked", "epoch", "cell"]
    parser.add_argument("--only", nargs="+", choices=words, default=[], help="steps to do; default: all")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this installation of torch sees no GPU; take --device cpu")
    budget = Budget(options.budget)
    scale = options.scale or ("full" if options.device == "cuda" else "small")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {
        line["step"] for line in lines if line.get("device") == options.device and line["state"] == "done"
    }
    where = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    failed = False

    def write(step: str, state: str, **result: Any) -> None:
        line = {"step": step, "state": state, "device": options.device, "name": where, **result}
        lines.append(line)
        replace_file(path, "".join(json.dumps(one) + "\n" for one in lines).encode())
        print(json.dumps(line), flush=True)

    write("start", "started", budget=options.budget, scale=scale, **provenance())
    for step, work in steps(options.device, scale, options.out / "runs", budget):
        if step in done or (options.only and step.split()[0] not in options.only):
            continue
        if budget.left() <= 0:
            write("end", "budget used up", next=step)
            break
        start = time.perf_counter()
        try:
            result = work()
        except (BudgetError, subprocess.TimeoutExpired):
            write("end", "budget used up", next=step)
            break
        except DataError as error:
            write(step, "left out", reason=" ".join(str(error).split()))
        except Exception as error:  # a failed step must not end the others
            failed = True
            write(step, "failed", reason=f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}")
        else:
            write(step, "done", seconds_of_step=round(time.perf_counter() - start, 2), result=result)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
