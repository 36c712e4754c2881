"""Gather finished runs into the small tables and the picture that are committed here.

python results/training/collect.py RUNS [RUNS ...]

RUNS are roots of run folders, as `layerprobe paper train --root` writes them. Writes beside this script
history.csv (an epoch a row), runs.csv (a run a row), provenance.json and history.png.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from layerprobe.figures import save, training_history
from layerprobe.paper import Run, read_run

HERE = Path(__file__).parent


def cell(run: Run) -> dict:
    """Return what tells one run from another in a table."""
    spec = run.spec
    return {"pair": spec.pair, "corruption": spec.corruption, "seed": spec.seed, "subset": spec.subset}


def main(roots: list[str]) -> None:
    folders = sorted(path.parent for root in roots for path in Path(root).glob("*/*/run.json"))
    runs = [run for folder in folders if (run := read_run(folder)).done]
    if not runs:
        sys.exit(f"no finished run under {', '.join(roots) or 'nothing: name at least one root'}")
    histories, rows, provenance = [], [], {}
    for run in runs:
        history = run.history
        histories.append(history.assign(**cell(run))[[*cell(run), *history.columns]])
        last, best = history.iloc[-1], history["test_accuracy"].max()
        rows.append(
            {
                **cell(run),
                "optimizer": run.spec.recipe.optimizer,
                "learning_rate": run.spec.recipe.learning_rate,
                "batch_size": run.spec.recipe.batch_size,
                "target": run.spec.recipe.target,
                "epochs": int(last["epoch"]),
                "train_accuracy": last["train_accuracy"],
                "true_accuracy": last["true_accuracy"],
                "test_accuracy": last["test_accuracy"],
                "best_epoch": int(history.loc[history["test_accuracy"].idxmax(), "epoch"]),
                "best_epoch_test_accuracy": best,
                "seconds": round(history["seconds"].sum()),
            }
        )
        provenance[run.folder.name] = json.loads((run.folder / "run.json").read_text("utf-8"))
    table = pd.concat(histories, ignore_index=True)
    table.to_csv(HERE / "history.csv", index=False)
    pd.DataFrame(rows).to_csv(HERE / "runs.csv", index=False)
    (HERE / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
    names = [
        f"{row.pair}, {f'{row.subset:.0f} images' if row.subset == row.subset else 'all images'}"
        for row in table[["pair", "subset"]].itertuples()
    ]
    save(training_history(table.assign(pair=names)), HERE / "history")


if __name__ == "__main__":
    main(sys.argv[1:])
