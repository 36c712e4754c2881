"""The states of runs, and the disk space that they need."""

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from layerprobe.errors import DataError, InputError
from layerprobe.runs.folders import RECORD, check_weights, is_done, read_run, run_folder
from layerprobe.runs.pairs import pair
from layerprobe.runs.specs import RunSpec
from layerprobe.training import Seeds, bytes_needed
from layerprobe.utils.files import Location

OF_LAST_EPOCH = ["loss", "train_accuracy", "true_accuracy", "test_accuracy"]


def status(root: Location, specs: Iterable[RunSpec] | None = None) -> pd.DataFrame:
    """Return the state of each run.

    Parameters
    ----------
    root : path
    specs : iterable of RunSpec, optional
        The runs. By default every run in the folder, and those that are missing to make the corruption
        degrees and seeds of each pair a full grid.

    Returns
    -------
    DataFrame
        One row per run: pair, corruption, seed; variant, the differences from the pair's own recipe and data
        in words; state ("done", "running", "resumable", "missing", or "unreadable" if its folder cannot be
        read); epochs; memorised, whether the target was reached; loss, train_accuracy (on the labels trained
        on), true_accuracy and test_accuracy of the last epoch; seconds, the time of all epochs; folder, in
        `root`; reason, why it cannot be read.

    Raises
    ------
    InputError
        If `root` is not a folder.
    """
    root, unreadable = Path(root), dict[Path, str]()
    if specs is None:
        specs, unreadable = _full_grids(root)
    rows = [_row(root, spec) for spec in specs]
    for folder, reason in unreadable.items():
        where = {"pair": folder.parent.name, "folder": str(folder.relative_to(root))}
        rows.append({**where, "state": "unreadable", "epochs": 0, "reason": reason})
    names = ["pair", "corruption", "seed", "variant", "state", "epochs", "memorised", *OF_LAST_EPOCH]
    types = dict.fromkeys(["corruption", *OF_LAST_EPOCH, "seconds"], "float64")
    types |= {"seed": "Int64", "epochs": "int64", "memorised": "boolean"}
    return pd.DataFrame(rows, columns=[*names, "seconds", "folder", "reason"]).astype(types)


def _row(root: Path, spec: RunSpec) -> dict[str, Any]:
    folder = run_folder(root, spec)
    row = {"pair": spec.pair, "corruption": spec.corruption, "seed": spec.seed, "variant": variant(spec)}
    row |= {"state": "missing", "epochs": 0, "folder": str(folder.relative_to(root)), "reason": ""}
    if not os.path.lexists(folder / RECORD):
        return row
    try:
        run = read_run(folder)
        check_weights(folder)
    except DataError as error:
        return row | {"state": "unreadable", "reason": str(error)}
    row |= {
        "state": "done" if run.done else "running" if run.running else "resumable",
        "epochs": len(run.history),
        "memorised": None if spec.weights else run.memorised,
        "seconds": run.seconds,
    }
    if len(run.history):
        row |= {name: float(run.history[name].iloc[-1]) for name in OF_LAST_EPOCH}
    return row


def variant(spec: RunSpec) -> str:
    """Return the differences from the pair's own recipe and data in words; empty if there are none."""
    own, usual = asdict(spec.recipe), asdict(pair(spec.pair).recipe)
    changed = {name: value for name, value in own.items() if value != usual[name]} | dict(spec.options)
    sizes = {"subset": spec.subset, "test_subset": spec.test_subset}
    changed |= {name: size for name, size in sizes.items() if size is not None}
    if spec.edit:
        bias = "" if spec.edit.bias == "probe" else f" with bias {spec.edit.bias}"
        changed["edit"] = f"{spec.edit.probe} after epoch {spec.edit.epoch}{bias}"
    if spec.noise != "uniform":
        changed["noise"] = spec.noise
    if spec.weights:
        changed["weights"] = spec.weights
    return ", ".join(f"{name} {value}" for name, value in changed.items())


def runs_in(root: Location) -> tuple[list[RunSpec], dict[Path, str]]:
    """Return the spec of every run under `root`, and the folders that cannot be read with the reason."""
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise InputError(f"expected a folder of runs, got the file {root}; name another by --root")
    specs: list[RunSpec] = []
    unreadable: dict[Path, str] = {}
    for folder in sorted(root.glob("*/*")):
        if not os.path.lexists(folder / RECORD):
            continue
        try:
            spec = read_run(folder).spec
            if run_folder(root, spec) != folder:
                raise DataError(f"{folder}: {RECORD} is of {run_folder('', spec)}. Move the folder there.")
            specs.append(spec)
        except DataError as error:
            unreadable[folder] = str(error)
    return specs, unreadable


def runs_of(
    root: Location, pairs: Collection[str], *, finished: bool = False
) -> tuple[list[RunSpec], list[str]]:
    """Return the specs of the runs of pairs under `root`, and the reasons why runs cannot be read.

    Parameters
    ----------
    root : path
    pairs : collection of str
        The pairs; without any, all.
    finished : bool
        Leave out runs that are not done.

    Raises
    ------
    InputError
        If there is no such run, or none of one of the pairs.
    """
    every, unreadable = runs_in(root)
    specs = [spec for spec in every if not pairs or spec.pair in pairs]
    if finished:
        specs = [spec for spec in specs if is_done(run_folder(root, spec))]
    absent = [pair for pair in pairs if pair not in {spec.pair for spec in specs}]
    if absent or not specs:
        kind, of_pair = "finished" if finished else "readable", f" of {', '.join(absent)}" if absent else ""
        reasons = [why for folder, why in unreadable.items() if not pairs or folder.parent.name in absent]
        why = next(iter(reasons), "train one, or name another --root")
        raise InputError(f"no {kind} run{of_pair} in {root}; {why}")
    return specs, list(unreadable.values())


def _full_grids(root: Path) -> tuple[list[RunSpec], dict[Path, str]]:
    """Return the spec of every run under `root` and of those missing in its grid, and unreadable folders."""
    specs, unreadable = runs_in(root)
    grid = dict.fromkeys(specs)
    families: dict[RunSpec, list[RunSpec]] = {}
    for spec in specs:
        if spec.seed is not None and spec.corruption is not None:
            families.setdefault(_with(spec, 0.0, 0), []).append(spec)
    for family, members in families.items():
        degrees, seeds = {spec.corruption for spec in members}, {spec.seed for spec in members}
        grid |= dict.fromkeys(_with(family, degree, seed) for degree, seed in product(degrees, seeds))

    def place(spec: RunSpec) -> tuple[Any, ...]:
        numbers = (inf if number is None else number for number in (spec.corruption, spec.seed))
        return (spec.pair, spec.noise, *numbers)

    return sorted(grid, key=place), unreadable


def _with(spec: RunSpec, corruption: float | None, seed: int | None) -> RunSpec:
    """Return the spec of the same family at another corruption and seed."""
    seeds = Seeds.derive(seed or 0)
    drawn = seeds.noise if spec.noise_seed is not None else None
    return replace(
        spec, corruption=corruption, seed=seed, noise_seed=drawn, init_seed=seeds.init, order_seed=seeds.order
    )


def so_far(root: Location, spec: RunSpec) -> tuple[int, float]:
    """Return the number of complete epochs of a run, and the last accuracy on the labels trained on.

    Parameters
    ----------
    root : path
    spec : RunSpec
        The run, whose folder may not exist.
    """
    try:
        history = read_run(run_folder(root, spec)).history
    except DataError:
        return 0, 0.0
    return len(history), float(history["train_accuracy"].iloc[-1]) if len(history) else 0.0


def untrained_network(spec: RunSpec) -> nn.Module:
    """Return the network of a run on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return pair(spec.pair).network(spec.options)


def disk_needed(specs: Sequence[RunSpec], *, jobs: int, checkpoints: bool) -> int:
    """Return the disk space in bytes that runs need at most, without that which they already take.

    Parameters
    ----------
    specs : sequence of RunSpec
    jobs : int
        How many of them are trained at a time.
    checkpoints : bool
        Whether the weights of chosen epochs are kept.
    """
    lasting, training = 0, []
    for spec in specs:
        network = untrained_network(spec)
        training.append(bytes_needed(network, spec.recipe))
        lasting += bytes_needed(network, spec.recipe, keep_chosen=checkpoints) - training[-1]
        lasting += sum(tensor.nbytes for tensor in network.state_dict().values())
    return lasting + sum(sorted(training)[-jobs:])
