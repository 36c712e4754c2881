"""Benchmark one training epoch against a plain PyTorch loop, and two processes against one.

    python benchmarks/training.py [--samples 2000] [--repeats 3] [--out benchmarks/training.csv]
    python benchmarks/training.py --grid          # on an idle machine of two or more cores

The images are random uint8. Both loops use the paper's networks, batch sizes and optimisers, and one thread.
Times are CPU seconds per epoch, the median of interleaved repeats. Floating point operations are those of
matrix products and convolutions, forward and backward. The peak is that of one large float32 matrix product
in the same run, which convolutions can exceed where oneDNN is faster than the library of matrix products. The
plain loop's data set does not convert images through PIL, as those of torchvision do.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from layerprobe.paper import pair
from layerprobe.training import seeded, train

PAIRS = {"mlp-mnist": (28, 28), "cnn-fashion-mnist": (28, 28), "cnn-cifar10": (32, 32, 3)}  # image shapes


class PlainDataset(Dataset):
    """Return one sample at a time, through torchvision's ToTensor and Normalize((0.5,), (0.5,))."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = self.images[i]
        image = image.view(*image.shape[:2], -1).permute(2, 0, 1).contiguous()
        image = image.to(torch.float32).div(255)
        mean, std = torch.as_tensor((0.5,)).view(-1, 1, 1), torch.as_tensor((0.5,)).view(-1, 1, 1)
        return image.clone().sub_(mean).div_(std), int(self.labels[i])


def plain_epoch(
    model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    """Return mean loss and accuracy of one epoch; each step is waited for."""
    model.train()
    loss_sum, correct, seen = 0.0, 0, 0
    for x, y in loader:
        optimizer.zero_grad()
        outputs = model(x)
        loss = cross_entropy(outputs, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(y)
        correct += (outputs.argmax(1) == y).sum().item()
        seen += len(y)
    return loss_sum / seen, correct / seen


def plain_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    recipe = pair(name).recipe
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    return torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)


def network(name: str) -> nn.Module:
    with seeded(0):
        return pair(name).build()


def random_images(name: str, samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (samples, *PAIRS[name]), generator=generator, dtype=torch.uint8)
    return images, torch.randint(10, (samples,), generator=generator)


def our_training(name: str, images: Tensor, labels: Tensor, epochs: int = 1) -> Callable[[], object]:
    recipe = replace(pair(name).recipe, max_epochs=epochs)
    model = network(name).to(memory_format=torch.channels_last)
    return lambda: train(model, images, labels, recipe, order_seed=0, inputs=pair(name).scale())


def operations(name: str, images: Tensor) -> int:
    """Return the floating point operations of one epoch's matrix products and convolutions."""
    model = network(name)
    with FlopCounterMode(display=False) as counter:
        model(pair(name).scale()(images[:1])).sum().backward()
    return counter.get_total_flops() * len(images)


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(name: str, samples: int, repeats: int) -> dict:
    images, labels = random_images(name, samples)
    loader = DataLoader(PlainDataset(images, labels), pair(name).recipe.batch_size, shuffle=True)
    model = network(name)
    optimizer = plain_optimizer(name, model)
    square = torch.randn(2048, 2048)
    jobs: dict[str, Callable[[], object]] = {
        "ours": our_training(name, images, labels),
        "plain": lambda: plain_epoch(model, loader, optimizer),
        "peak": lambda: square @ square,
    }
    times = defaultdict(list)
    for _ in range(repeats + 1):
        for job, function in jobs.items():
            times[job].append(cpu_seconds(function))
    seconds = {job: statistics.median(values[1:]) for job, values in times.items()}  # the first warms up
    flops, peak = operations(name, images), 2 * 2048**3 / seconds["peak"]
    return {
        "pair": name,
        "samples": samples,
        "ours_cpu_seconds": round(seconds["ours"], 3),
        "plain_cpu_seconds": round(seconds["plain"], 3),
        "times_faster": round(seconds["plain"] / seconds["ours"], 2),
        "gflop": round(flops / 1e9, 2),
        "share_of_peak": round(flops / seconds["ours"] / peak, 3),
        "plain_share_of_peak": round(flops / seconds["plain"] / peak, 3),
        "peak_gflops": round(peak / 1e9, 1),
    }


def wall_seconds_per_epoch(name: str, samples: int, threads: int, epochs: int = 5) -> float:
    torch.set_num_threads(threads)
    images, labels = random_images(name, samples)
    our_training(name, images, labels)()  # warms up
    training = our_training(name, images, labels, epochs)
    start = time.perf_counter()
    training()
    return (time.perf_counter() - start) / epochs


def epochs_per_second(name: str, samples: int, processes: int, threads: int) -> float:
    """Return the epochs per second of several processes at once, each with a network of its own."""
    command = [sys.executable, __file__, "--samples", str(samples), "--worker", name, str(threads)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(1 / float(process.communicate()[0]) for process in started)


def measure_grid(name: str, samples: int) -> dict:
    two, one = (epochs_per_second(name, samples, *numbers) for numbers in ((2, 1), (1, 2)))
    return {
        "pair": name,
        "samples": samples,
        "two_processes_of_one_thread": round(two, 3),
        "one_process_of_two_threads": round(one, 3),
        "times_faster": round(two / one, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--grid", action="store_true", help="epochs per second of two processes and of one")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", help="also write the table to this CSV file")
    arguments = parser.parse_args()
    if arguments.worker:
        name, threads = arguments.worker
        print(wall_seconds_per_epoch(name, arguments.samples, int(threads)))
        return
    torch.set_num_threads(1)
    if arguments.grid:
        rows = [measure_grid(name, arguments.samples) for name in arguments.pairs]
    else:
        rows = [measure(name, arguments.samples, arguments.repeats) for name in arguments.pairs]
    table = pd.DataFrame(rows)
    print(f"{platform.machine()}, torch {torch.__version__}, {arguments.repeats} repeats")
    print(table.to_string(index=False))
    if arguments.out:
        table.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
