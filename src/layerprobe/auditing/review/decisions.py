"""Decisions of reviewers: read from a frame, a CSV or JSON file, or annotations of Label Studio."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerprobe.core.checks import check_count
from layerprobe.errors import DataError, InputError, LayerprobeWarning, did_you_mean, warn

KIND = "layerprobe.decisions.1"  # of the JSON file that the review page exports
UNDECIDED, OUTSIDE = -1, -2  # in the place of a class index: "cannot say", "none of the classes"
NONE = "none of the classes"  # as a label in files; a class of this name goes first
FROM_TASKS = ("sample_n", "sample_seed", "sample_audit")  # data of the tasks of Label Studio
CONTROL = "label"  # name of the choices in the labelling interface of Label Studio
MARKED = re.compile(r"'[=+\-@\t\r]")  # the apostrophe keeps a spreadsheet from evaluating the cell


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions on training rows, in the order in which they were made.

    Attributes
    ----------
    positions : ndarray of shape (m,), int64
        The decided rows. A row may have several decisions.
    y : ndarray of shape (m,), int64
        Class indices of the right labels; -1 where the reviewer cannot say, -2 for none of the classes.
    reviewers : ndarray of shape (m,), str
    sample_size, sample_seed : int
        The arguments of `Audit.review_sample` that drew the reviewed sample.
    """

    positions: np.ndarray
    y: np.ndarray
    reviewers: np.ndarray
    sample_size: int
    sample_seed: int

    def __len__(self) -> int:
        return len(self.positions)

    def followed_by(self, later: "Decisions") -> "Decisions":
        """Return these decisions and later ones on the same sample.

        Later decisions replace those of the same reviewer on the same rows, so that a second export of one
        review counts once. Decisions without a name count as those of one reviewer.
        """
        if (self.sample_size, self.sample_seed) != (later.sample_size, later.sample_seed):
            raise InputError(
                f"earlier decisions are on the sample n={self.sample_size}, seed={self.sample_seed}, these "
                f"are on n={later.sample_size}, seed={later.sample_seed}: give decisions on one sample only"
            )
        again = set(zip(later.positions.tolist(), later.reviewers.tolist(), strict=True))
        pairs = zip(self.positions.tolist(), self.reviewers.tolist(), strict=True)
        kept = np.array([pair not in again for pair in pairs], bool)
        return replace(
            self,
            positions=np.append(self.positions[kept], later.positions),
            y=np.append(self.y[kept], later.y),
            reviewers=np.append(self.reviewers[kept], later.reviewers),
        )


def read_decisions(
    source: Any,
    index: np.ndarray,
    classes: np.ndarray,
    *,
    sample_size: int | None = None,
    sample_seed: int | None = None,
    sample_id: Callable[[int, int], str] | None = None,
) -> Decisions:
    """Read the decisions of reviewers.

    Parameters
    ----------
    source : DataFrame, sequence of mappings, or path
        As for `Audit.apply`. JSON is a list of such records, the export of the review page, or annotations of
        Label Studio, whose exports as JSON, JSON-MIN and CSV are read.
    index : ndarray of shape (n,)
        Names of the training rows.
    classes : ndarray of shape (K,)
        Names of the classes.
    sample_size, sample_seed : int, optional
        Of the sample. By default those that the file states, or else 100 and 0.
    sample_id : callable, optional
        From size and seed of the sample to its name in exports of the review page. A warning says if
        decisions were made on another sample.
    """
    stated: Mapping[str, Any] = {}  # n, seed and audit of the sample, as far as the source states them
    if isinstance(source, str | os.PathLike):
        source = _read_file(Path(source))
    if isinstance(source, Mapping) and "decisions" in source:
        sample = source.get("sample")
        stated = {**(sample if isinstance(sample, Mapping) else {}), "audit": source.get("audit")}
        source = source["decisions"]
    frame = _to_frame(source)
    if missing := {"index", "label"} - set(frame.columns):
        raise InputError(
            "decisions need the columns 'index' and 'label', and may have 'reviewer'; "
            f"{sorted(missing)[0]!r} is missing, there are {', '.join(map(repr, frame.columns)) or 'none'}"
        )
    if not frame.columns.is_unique:
        raise InputError(f"decisions have two columns of one name: {', '.join(map(repr, frame.columns))}")
    if frame.empty:
        raise InputError("there are no decisions: expected one row per decision")
    for column in FROM_TASKS:
        name = column.removeprefix("sample_")
        tasks = {_text(one) for one in frame.get(column, ()) if not _empty(one)}
        if len(tasks) > 1:
            raise InputError(
                f"the decisions are on samples with {name}={' and '.join(sorted(tasks))}: give decisions on "
                "one sample only"
            )
        for one in tasks:
            stated = {**stated, name: int(one) if name != "audit" and one.isdecimal() else one}
    design = {}
    for name, value, usual in (("n", sample_size, 100), ("seed", sample_seed, 0)):
        design[name] = stated.get(name, usual if value is None else value)
        check_count(f"the sample's {name}", design[name], 0)
        if value not in (None, design[name]):
            raise InputError(
                f"the decisions are on the sample with {name}={design[name]}, not {name}={value}"
            )
    named = stated.get("audit")
    if named and sample_id is not None and named != sample_id(int(design["n"]), int(design["seed"])):
        warn(
            "the decisions were made on the review page of another audit: the labels are used, but what they "
            "measure is not that of a random sample. Decide on the page of this audit",
            LayerprobeWarning,
        )
    anonymous = frame.get("annotator", pd.Series("", index=frame.index))  # of Label Studio's JSON-MIN and CSV
    reviewers = frame.get("reviewer", anonymous)
    return Decisions(
        _positions(frame["index"], index),
        _classes(frame["label"], frame["index"], classes),
        np.array(["" if _empty(one) else _text(one) for one in reviewers], dtype=str),
        int(design["n"]),
        int(design["seed"]),
    )


def _read_file(path: Path) -> Any:
    """Return the frame of a CSV file, or the list or export of the review page in a JSON file."""
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {state}: expected a .csv or .json file of decisions")
    try:
        if path.suffix.lower() == ".csv":
            with path.open(encoding="utf-8-sig") as file:
                header = file.readline()
            separator = max(",;", key=header.count)  # spreadsheets of many countries write semicolons
            frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
            return frame.map(lambda cell: cell[1:] if MARKED.match(cell) else cell)
        if path.suffix.lower() != ".json":
            raise InputError(f"decisions are a .csv or .json file, got {path.name!r}")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"the decisions in {path} cannot be read: {str(error).strip()}") from error
    if isinstance(data, Mapping) and (data.get("kind"), type(data.get("decisions"))) != (KIND, list):
        raise DataError(
            f"{path} holds no decisions: expected a list of records with the keys 'index' and 'label', "
            f"or an export of the review page, of the kind {KIND!r}"
        )
    return data


def _to_frame(source: Any) -> pd.DataFrame:
    """Return records as a frame."""
    if isinstance(source, pd.DataFrame):
        return source.reset_index(drop=True)
    if not isinstance(source, Sequence) or isinstance(source, str | bytes):
        raise InputError(f"decisions are a frame, a list of records or a file, got {type(source).__name__}")
    if not all(isinstance(one, Mapping) for one in source):
        raise InputError("decisions in a list are records with the keys 'index' and 'label'")
    records = [record for one in source for record in _of_label_studio(one)]
    if any(isinstance(value, Mapping | list) for one in records for value in one.values()):
        raise InputError("a decision holds simple values: 'index', 'label' and 'reviewer'")
    return pd.DataFrame(records, columns=None if records else ["index", "label"])


def _of_label_studio(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the decisions in an annotated task of Label Studio; any other record is one decision."""
    if "annotations" not in record:
        return [record]
    decisions: list[Mapping[str, Any]] = []
    try:
        data = {name: value for name, value in record["data"].items() if name in FROM_TASKS}
        for annotation in record["annotations"]:
            if annotation.get("was_cancelled"):
                continue
            choices = [result for result in annotation["result"] if result.get("type") == "choices"]
            named = [result for result in choices if result.get("from_name") == CONTROL]
            chosen = [choice for result in named or choices for choice in result["value"]["choices"]]
            if len(chosen) > 1:
                raise InputError(f"expected one choice per annotation, got {chosen}")
            person = annotation.get("completed_by", "")
            person = person.get("email", person.get("id", "")) if isinstance(person, Mapping) else person
            decisions.append(
                {**data, "index": record["data"]["index"], "label": (chosen or [None])[0], "reviewer": person}
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"a task of Label Studio lacks {error}: expected data.index, and annotations with choices"
        ) from error
    return decisions


def _positions(names: pd.Series, index: np.ndarray) -> np.ndarray:
    """Return the positions of rows by name; names are compared as texts, since files hold texts."""
    places = {_text(name): i for i, name in enumerate(index)}
    if len(places) < len(index):
        raise InputError("two training rows have the same name, so that decisions cannot be assigned")
    texts = [_known_text(name, places) for name in names]
    for text in texts:
        if text not in places:
            raise InputError(f"there is no training row {text!r}.{did_you_mean(text, places)}")
    return np.array([places[text] for text in texts], dtype=np.int64)


def _classes(labels: pd.Series, names: pd.Series, classes: np.ndarray) -> np.ndarray:
    named = {_text(name): k for k, name in enumerate(classes)}
    if len(named) < len(classes):
        raise InputError("two classes have the same name as text, so that decisions cannot be assigned")
    numbers = {NONE: OUTSIDE, **named}
    y = np.full(len(labels), UNDECIDED, np.int64)
    for i, label in enumerate(labels):
        if _empty(label):
            continue
        text = _known_text(label, numbers)
        if text not in numbers:
            raise InputError(
                f"the decision on row {_text(names.iloc[i])!r} has the unknown label {text!r}."
                f"{did_you_mean(text, numbers)} The classes are {', '.join(map(repr, [*named][:5]))}"
                f"{', ...' if len(named) > 5 else ''}"
            )
        y[i] = numbers[text]
    return y


def _text(value: Any) -> str:
    """Return a name as text; a whole number that a frame holds as a float has no decimals."""
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)


def _known_text(value: Any, known: Mapping[str, int]) -> str:
    """Return a name as text, where the numbers "3.0" and "3" stand for each other if only one is known.

    Files have "3.0" for 3 in a column with empty cells, and a frame has 3.0 for a row "3.0" beside one "3.5".
    """
    text = _text(value)
    number = text.removesuffix(".0")
    other = number if text.endswith(".0") else f"{number}.0"
    is_number = number.removeprefix("-").isdecimal()
    return other if is_number and text not in known and other in known else text


def _empty(value: Any) -> bool:
    return value is None or value is pd.NA or value != value or (isinstance(value, str) and not value.strip())
