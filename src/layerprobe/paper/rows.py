"""Tidy rows: what an experiment measured on a run, one number a row; tables and figures read nothing else.

| column | what |
| --- | --- |
| pair, corruption, noise, seed, noise_seed, init_seed, order_seed, subset, variant, key | the run |
| experiment | a name of `layerprobe.paper.experiments.EXPERIMENTS` |
| layer | the paper's name of a layer; "output" is the network's own output |
| probe | a name of the probe registry; "network" is the network itself |
| setting | what was varied: a variance ("0.99"), one component ("1pc"), a protocol; empty otherwise |
| fitted_on | the training labels that the probe was fitted on: "noisy", "true" or none |
| split | "train", "test"; retraining splits the test data into "validation" (20 %) and "evaluation" (80 %) |
| labels | the labels that an accuracy is against: "noisy" or "true" |
| degree | corruption degree of "noisy" labels where it is not the run's own |
| class | position of a class, for numbers of one class |
| epoch | of training, for numbers of one epoch |
| metric | "accuracy", a share in [0, 1]; "components"; "seconds"; ... |
| value | the number |
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from layerprobe.errors import DataError
from layerprobe.runs.folders import Run
from layerprobe.runs.specs import RunSpec
from layerprobe.runs.states import variant
from layerprobe.utils.files import replace_file

__all__ = [
    "COLUMNS",
    "MEASURE",
    "RUN",
    "SEEDS",
    "independent",
    "of_run",
    "read_rows",
    "rows_path",
    "tidy",
    "with_run",
    "write_rows",
]

SEEDS = ["seed", "noise_seed", "init_seed", "order_seed"]
RUN = ["pair", "corruption", "noise", *SEEDS, "subset", "variant", "key"]
TEXTS = ["experiment", "layer", "probe", "setting", "fitted_on", "split", "labels", "metric"]
NUMBERS = ["degree", "class", "epoch", "value"]
MEASURE = [*TEXTS[:7], *NUMBERS[:3], "metric", "value"]
COLUMNS = [*RUN, *MEASURE]
WHOLE = [*SEEDS, "subset", "class", "epoch"]


def tidy(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return records, each a mapping of some of `MEASURE`, as a frame of all of them.

    Examples
    --------
    >>> tidy([{"experiment": "controls", "metric": "accuracy", "value": 0.5}])["layer"].tolist()
    ['']
    """
    return _typed(pd.DataFrame(list(records), columns=MEASURE))


def rows_path(folder: Path, experiment: str) -> Path:
    """Return where a run keeps the rows of an experiment."""
    return folder / "rows" / f"{experiment}.csv"


def write_rows(folder: Path, experiment: str, rows: pd.DataFrame) -> None:
    """Write an experiment's rows into a run's folder, all or nothing; numbers are exact."""
    path = rows_path(folder, experiment)
    path.parent.mkdir(exist_ok=True)
    replace_file(path, rows[MEASURE].to_csv(index=False).encode())


def read_rows(folder: Path, experiment: str) -> pd.DataFrame:
    """Read what `write_rows` wrote.

    Raises
    ------
    DataError
        If it is missing or damaged.
    """
    path = rows_path(folder, experiment)
    try:
        # pandas' own parser of numbers may miss the last bit
        return _typed(pd.read_csv(io.BytesIO(path.read_bytes()), dtype=str, keep_default_na=False)[MEASURE])
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: expected the rows of an experiment ({error}). Remove it and run the experiment again."
        ) from error


def of_run(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a run's rows with the columns that say which run it is."""
    return with_run(run.spec, rows)[COLUMNS]


def with_run(spec: RunSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame behind the columns `RUN`, which say which run it is of."""
    which = {
        "pair": spec.pair,
        "corruption": spec.corruption,
        "noise": spec.noise,
        "seed": spec.seed,
        "noise_seed": spec.noise_seed,
        "init_seed": spec.init_seed,
        "order_seed": spec.order_seed,
        "subset": spec.subset,
        "variant": variant(spec),
        "key": spec.key[:12],
    }
    run = _typed(
        pd.DataFrame({name: [value] * len(frame) for name, value in which.items()}, index=frame.index)
    )
    return pd.concat([run, frame], axis=1)


def independent(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of runs whose seeds all derive from one: only those are independent of each other.

    Runs that share some of their seeds, as those in which one alone varies, serve the sensitivity table.
    """
    return rows[rows["seed"].notna()]


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose columns have one type each, whatever it was made of."""
    result = pd.DataFrame(index=rows.index)
    for name, column in rows.items():
        if name in WHOLE or name in NUMBERS or name == "corruption":
            numbers = column.replace("", None).astype("float64")
            result[name] = numbers.astype("Int64") if name in WHOLE else numbers
        else:
            result[name] = column.astype(object).where(column.notna(), "").astype(str)
    return result
