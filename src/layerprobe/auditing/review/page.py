"""The rows to review as an offline HTML page, or as tasks for Label Studio."""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from layerprobe.auditing.findings import by_suspicion
from layerprobe.auditing.report.gallery import Picture
from layerprobe.auditing.review.decisions import CONTROL, NONE
from layerprobe.auditing.review.sampling import ReviewSample
from layerprobe.core.checks import check_count
from layerprobe.pages import write_html
from layerprobe.utils.files import replace_file

CHARACTERS = 5000  # of a text that the page shows
VALUES = 60  # numbers of a row of a table that the page shows, the first ones
SIDE = 256  # pixels of a picture
MODEL_VERSION = "layerprobe"  # of the suggestions in Label Studio
SUBJECT = "item"  # name of the row in its labelling interface


def write_review_page(audit: Any, path: str | Path, sample: ReviewSample, most: int) -> None:
    """Write the page: the random sample, the rows whose labels are most likely wrong, other conflicts.

    A row with a duplicate of another label is shown with it.

    Parameters
    ----------
    audit : Audit
    path : path
        The file to write, all or nothing.
    sample : ReviewSample
    most : int
        Maximal number of rows beside the sample.
    """
    check_count("most", most, 0)
    issues, y = audit.issues, audit.y.numpy()
    suspicious = by_suspicion(issues)
    more = suspicious[~np.isin(suspicious, sample.positions)][:most]
    conflicts = audit.open_conflicts()
    others, similarities = conflicts.others.tolist(), conflicts.similarity.tolist()
    twins = dict(zip(conflicts.positions.tolist(), zip(others, similarities, strict=True), strict=True))
    kept = np.concatenate([sample.positions, more])
    more = np.concatenate([more, conflicts.positions[~np.isin(conflicts.positions, kept)][:most]])
    positions = np.concatenate([sample.positions, more])
    suggested = audit.suggested.numpy()
    # Equal content is not shown twice.
    shown = [twins[i][0] for i in positions.tolist() if i in twins and twins[i][1] < 1]
    contents = _row_contents(audit, np.concatenate([positions, np.array(shown, np.int64)]))
    of_twins = dict(zip(shown, contents[len(positions) :], strict=True))
    rows = []
    for i, content in zip(positions.tolist(), contents[: len(positions)], strict=True):
        row = {
            "index": str(audit.index[i]),
            "given": int(y[i]),
            "suggested": int(suggested[i]),
            "score": round(float(issues["label_score"].iloc[i]), 4),
            **content,
        }
        if i in twins:
            j, similarity = twins[i]
            row["twin"] = {
                "index": str(audit.index[j]),
                "given": int(y[j]),
                "similarity": 1 if similarity == 1 else min(round(similarity, 3), 0.999),
                **of_twins.get(j, {}),
            }
        rows.append(row)
    place = {int(i): row for row, i in enumerate(positions)}
    parts = ((sample.positions, False, True), (sample.repeated, True, True), (more, False, False))
    queue = [
        {"row": place[int(i)], "repeat": is_repeat, "sample": is_drawn}
        for part, is_repeat, is_drawn in parts
        for i in part
    ]
    data = {
        "id": sample_id(audit, sample),
        "sample": sample.design,
        "classes": [str(name) for name in audit.classes],
        "none": NONE,
        "rows": rows,
        "queue": queue,
    }
    script = files("layerprobe").joinpath("templates/review.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    # In a script element only "<" could end the element; JSON may escape it.
    encoded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    write_html(
        path,
        "review.html.j2",
        title="Review of labels",
        data=Markup(encoded),
        script=Markup(script),
        script_hash=digest,
    )


def sample_id(audit: Any, sample: ReviewSample) -> str:
    """Return a name for the decisions on a sample of an audit: equal for equal rows, labels and sample.

    Parameters
    ----------
    audit : Audit
    sample : ReviewSample
    """
    digest = hashlib.sha256(repr([str(name) for name in audit.index]).encode("utf-8", "replace"))
    for array in (audit.y.numpy(), sample.positions, sample.repeated):
        digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    return digest.hexdigest()[:16]


def _row_contents(audit: Any, positions: np.ndarray) -> list[dict[str, Any]]:
    """Return the content to show of each training row: a picture, a text, the values of a table, or nothing.

    The keys are "image" (PNG in base64) and "small" (whether its pixels are enlarged), "text", "values"
    (pairs of column and number), or none.
    """
    examples = audit.examples(positions)
    if audit.rows is not None and all(example is None for example in examples):
        return _values(audit, positions)
    contents: list[dict[str, Any]] = []
    for example in examples:
        if isinstance(example, str):
            contents.append({"text": example[:CHARACTERS]})
        elif isinstance(example, np.ndarray):
            picture = Picture.of_pixels(example, SIDE)
            contents.append({"image": picture.base64, "small": picture.enlarged})
        else:
            contents.append({})
    return contents


def _values(audit: Any, positions: np.ndarray) -> list[dict[str, Any]]:
    """Return the numbers of rows of a table; other inputs are not shown."""
    contents: list[dict[str, Any]] = [{} for _ in positions]
    places = {int(i): place for place, i in enumerate(positions)}
    names = audit.rows.columns
    for inputs, numbers in audit.rows.batches():
        if not hasattr(inputs, "ndim") or inputs.ndim != 2:
            return contents
        for row, number in zip(inputs[:, :VALUES].tolist(), numbers.tolist(), strict=True):
            if number in places:
                shown = [[names[i] if names else str(i), f"{value:.4g}"] for i, value in enumerate(row)]
                contents[places[number]] = {"values": shown}
    return contents


def write_tasks(audit: Any, path: str | Path, sample: ReviewSample) -> None:
    """Write the rows of a sample as tasks of Label Studio.

    A task has the data `index`, `given_label`, `sample_n`, `sample_seed`, `sample_audit`, and `text` or
    `image` (as a data URI). The labelling interface needs `<Choices name="label" toName="item">` with one
    choice per class, and one "none of the classes".

    Parameters
    ----------
    audit : Audit
    path : path
        JSON file, replaced as a whole or not at all.
    sample : ReviewSample
    """
    rows, identity = audit.issues.iloc[sample.positions], sample_id(audit, sample)
    tasks = []
    row: Any
    contents = _row_contents(audit, sample.positions)
    for row, content in zip(rows.itertuples(index=False), contents, strict=True):
        data: dict[str, Any] = {"index": str(row.index), "given_label": str(row.given_label)}
        data |= {f"sample_{name}": value for name, value in sample.design.items()}
        data["sample_audit"] = identity
        if "image" in content:
            data["image"] = f"data:image/png;base64,{content['image']}"
        elif "text" in content:
            data["text"] = content["text"]
        elif "values" in content:
            data["text"] = ", ".join(f"{name}: {value}" for name, value in content["values"])
        else:
            data["text"] = str(row.index)
        choice = {
            "from_name": CONTROL,
            "to_name": SUBJECT,
            "type": "choices",
            "value": {"choices": [str(row.suggested_label)]},
        }
        prediction = {
            "model_version": MODEL_VERSION,
            "score": round(1 - float(row.label_score), 4),
            "result": [choice],
        }
        tasks.append({"data": data, "predictions": [prediction]})
    replace_file(path, (json.dumps(tasks, indent=1) + "\n").encode())
