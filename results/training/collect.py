"""Gather runs, finished or not, into the small tables and the picture that are committed here.

python results/training/collect.py RUNS [RUNS ...]

RUNS are roots of run folders, as `layerprobe paper train --root` writes them. Updates beside this script
runs.csv (a run a row), history.csv (an epoch a row) and provenance.json: runs that are there already are
replaced, others stay. Draws history.png from them.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from layerprobe.figures import encode, training_history
from layerprobe.paper import read_run, status

HERE = Path(__file__).parent
RUN = ["pair", "corruption", "seed", "variant"]  # what tells one run from another


def main(roots: list[str]) -> None:
    tables = [status(root).assign(root=root) for root in roots]
    runs = pd.concat(tables).query("epochs > 0").reset_index(drop=True)
    histories = []
    provenance = json.loads((HERE / "provenance.json").read_text("utf-8"))
    for i, row in runs.iterrows():
        run = read_run(Path(row["root"], row["folder"]))
        histories.append(run.history.assign(**row[RUN].to_dict())[[*RUN, *run.history.columns]])
        provenance[row["folder"]] = run.record
        best = run.history.loc[run.history["test_accuracy"].idxmax()]
        runs.loc[i, ["best_epoch", "best_epoch_test_accuracy"]] = best["epoch"], best["test_accuracy"]
    update("history.csv", pd.concat(histories))
    runs = runs.drop(columns=["root"]).astype({"best_epoch": int}).round({"seconds": 0})
    update("runs.csv", runs)
    (HERE / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
    history = pd.read_csv(HERE / "history.csv", keep_default_na=False, na_values=[""])
    history["variant"] = history["variant"].fillna("")
    images = history["variant"].str.extract(r"subset (\d+)")[0]
    panels = history.assign(pair=history["pair"] + (" (" + images + " images)").fillna(""))
    (HERE / "history.png").write_bytes(encode(training_history(panels), "png", dpi=110))


def update(name: str, rows: pd.DataFrame) -> None:
    """Put rows into a table in the place of those of the same runs."""
    there = pd.read_csv(HERE / name, dtype=str, keep_default_na=False)
    rows = rows.astype(object).where(rows.notna(), "").astype(str)
    same = there[RUN].apply(tuple, axis=1).isin(set(rows[RUN].apply(tuple, axis=1)))
    table = pd.concat([there[~same], rows]).sort_values(RUN, kind="stable")
    table.to_csv(HERE / name, index=False)


if __name__ == "__main__":
    main(sys.argv[1:])
