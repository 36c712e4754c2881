"""Tasks for Label Studio: the random sample, with the suggestion of the audit as a prediction."""

import json
from pathlib import Path
from typing import Any

from layerprobe.auditing.review.page import row_contents
from layerprobe.auditing.review.sampling import ReviewSample
from layerprobe.utils.files import replace_file

MODEL_VERSION = "layerprobe"
CONTROL, SUBJECT = "label", "item"  # names of the tags in the labelling interface


def write_tasks(audit: Any, path: str | Path, sample: ReviewSample) -> None:
    """Write the rows of a sample as tasks of Label Studio.

    A task has the data `index`, `given_label`, and `text` or `image` (as a data URI). The labelling interface
    needs `<Choices name="label" toName="item">` with one choice per class, and one "none of the classes".

    Parameters
    ----------
    audit : Audit
    path : path
        JSON file, replaced as a whole or not at all.
    sample : ReviewSample

    Raises
    ------
    DataError
        If the folder does not exist.
    """
    rows = audit.issues.iloc[sample.positions]
    tasks = []
    row: Any
    contents = row_contents(audit, sample.positions)
    for row, content in zip(rows.itertuples(index=False), contents, strict=True):
        data: dict[str, Any] = {"index": str(row.index), "given_label": str(row.given_label)}
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
