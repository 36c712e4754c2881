"""Tidy rows: the measurements of an experiment on a run, one number per row.

Tables and figures read nothing else.

| column | meaning |
| --- | --- |
| pair, corruption, noise, seed, noise_seed, init_seed, order_seed, subset, variant, key | the run |
| experiment | a name of `layerprobe.paper.experiments.EXPERIMENTS` |
| layer | the paper's name of a layer; "output" is the network's own output |
| probe | a name in the probe registry; "network" is the network itself |
| setting | the varied setting: a variance ("0.99"), one component ("1pc"), a noise, a protocol; or empty |
| fitted_on | the training labels of the probe: "noisy", "true" or empty |
| split | "train", "test"; retraining splits the test data into "validation" (20 %) and "evaluation" (80 %) |
| labels | the reference labels of an accuracy: "noisy" or "true" |
| degree | corruption degree of the noisy labels, if it is not that of the run |
| class | position of the class, for numbers per class |
| epoch | epoch of training, for numbers per epoch |
| metric | "accuracy", a share in [0, 1]; "components"; "seconds"; ... |
| value | the number |
"""

import io
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerprobe.errors import DataError, InputError
from layerprobe.runs.specs import RunSpec
from layerprobe.runs.states import variant
from layerprobe.utils.files import read_file, replace_file

SEEDS = ["seed", "noise_seed", "init_seed", "order_seed"]
RUN = ["pair", "corruption", "noise", *SEEDS, "subset", "variant", "key"]
TEXTS = ["experiment", "layer", "probe", "setting", "fitted_on", "split", "labels", "metric"]
NUMBERS = ["degree", "class", "epoch", "value"]
MEASURE = [*TEXTS[:7], *NUMBERS[:3], "metric", "value"]
COLUMNS = [*RUN, *MEASURE]
WHOLE = [*SEEDS, "subset", "class", "epoch"]
Records = Iterable[Mapping[str, Any]]  # rows, some columns each


def tidy(records: Records | pd.DataFrame) -> pd.DataFrame:
    """Return records as a frame with all columns of `MEASURE`; missing values are empty.

    Parameters
    ----------
    records : iterable of dict, or DataFrame
        Some columns of `MEASURE` each.

    Raises
    ------
    InputError
        If a record has another column.

    Examples
    --------
    >>> tidy([{"experiment": "controls", "metric": "accuracy", "value": 0.5}])["layer"].tolist()
    ['']
    """
    kept = records.to_dict("records") if isinstance(records, pd.DataFrame) else list(records)
    if unknown := {name: None for record in kept for name in record if name not in MEASURE}:
        raise InputError(f"rows have the columns {', '.join(MEASURE)}; got {', '.join(map(repr, unknown))}")
    return typed(pd.DataFrame(kept, columns=MEASURE))


def measured_as(
    experiment: str, **common: Any
) -> Callable[[Callable[..., Records]], Callable[..., pd.DataFrame]]:
    """Make the rows of an experiment of a function that yields its records.

    Parameters
    ----------
    experiment : str
    **common
        Further columns that all rows share.
    """

    def decorate(measure: Callable[..., Records]) -> Callable[..., pd.DataFrame]:
        @wraps(measure)
        def rows(*args: Any, **options: Any) -> pd.DataFrame:
            return tidy(each(measure(*args, **options), experiment=experiment, **common))

        return rows

    return decorate


def each(records: Records, **common: Any) -> list[dict[str, Any]]:
    """Return records with columns that they share.

    Parameters
    ----------
    records : iterable of dict
    **common
    """
    return [{**common, **record} for record in records]


def kind_of(experiment: str) -> str:
    """Return the name of an experiment in its rows: "probes" for "probes-NAME", which adds a probe to it."""
    return experiment.partition("-")[0]


def check_rows(rows: Any, experiment: str) -> None:
    """Check the rows that an experiment returned.

    Parameters
    ----------
    rows : object
    experiment : str

    Raises
    ------
    InputError
        If they are not a frame of `tidy`, not empty, with the experiment's name and without infinite numbers.
    """
    names = set(rows["experiment"]) if isinstance(rows, pd.DataFrame) and "experiment" in rows else set()
    if names != {kind_of(experiment)} or list(rows.columns) != MEASURE:
        raise InputError(
            f"the experiment {experiment!r} must return rows of layerprobe.paper.rows.tidy with this name in "
            f"the column experiment; got {type(rows).__name__} with {', '.join(map(repr, names)) or 'none'}"
        )
    if _infinite(rows):
        raise InputError(f"the experiment {experiment!r} must return finite numbers, got an infinite one")


def _infinite(rows: pd.DataFrame) -> bool:
    return bool(np.isinf(rows[NUMBERS].to_numpy(float, na_value=np.nan)).any())


def rows_path(folder: Path, experiment: str) -> Path:
    """Return the path of the rows of an experiment.

    Parameters
    ----------
    folder : Path
        The folder of a run.
    experiment : str
    """
    return folder / "rows" / f"{experiment}.csv"


def write_rows(folder: Path, experiment: str, rows: pd.DataFrame) -> None:
    """Write the rows of an experiment into the folder of a run, atomically and with exact numbers.

    Parameters
    ----------
    folder : Path
    experiment : str
    rows : DataFrame
    """
    path = rows_path(folder, experiment)
    path.parent.mkdir(exist_ok=True)
    replace_file(path, rows[MEASURE].to_csv(index=False).encode())


def read_rows(folder: Path, experiment: str) -> pd.DataFrame:
    """Read the rows that `write_rows` wrote.

    Parameters
    ----------
    folder : Path
    experiment : str

    Raises
    ------
    DataError
        If the file is missing or damaged.
    """
    path = rows_path(folder, experiment)
    try:
        content = io.BytesIO(read_file(path))
        # As text: the parser of pandas may lose the last bit of a number.
        rows = typed(pd.read_csv(content, dtype=str, keep_default_na=False)[MEASURE])
        if rows.empty or not rows["experiment"].isin([kind_of(experiment), ""]).all():
            raise ValueError(f"there are no rows of {experiment}, or also others")
        if _infinite(rows):
            raise ValueError("a number is infinite")
        return rows
    except Exception as error:  # a file can hold anything
        said = f"{path}: expected the rows of an experiment ({textwrap.shorten(str(error), 300)})"
        raise DataError(f"{said}. Remove it and run the experiment again.") from error


def with_run(spec: RunSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows or the history of a run with the columns of `RUN` in front.

    Parameters
    ----------
    spec : RunSpec
    frame : DataFrame
    """
    which = {name: getattr(spec, name) for name in RUN[:-2]}
    which |= {"variant": variant(spec), "key": spec.key[:12]}
    return pd.concat([typed(pd.DataFrame(which, index=frame.index)), frame], axis=1)


def independent(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of runs whose seeds all derive from one seed; these runs are independent.

    Runs that share some of their seeds are used in the sensitivity table only.
    """
    return rows[rows["seed"].notna()]


def typed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with one type per column, as listed in `WHOLE`, `NUMBERS` and `TEXTS`."""
    result = pd.DataFrame(index=rows.index)
    for name, column in rows.items():
        if name in WHOLE or name in NUMBERS or name == "corruption":
            numbers = column.replace("", None).astype("float64")
            result[name] = numbers.astype("Int64") if name in WHOLE else numbers
        else:
            result[name] = column.astype(object).where(column.notna(), "").astype(str)
    return result
