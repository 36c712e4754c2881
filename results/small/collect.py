"""Collect the small-scale reproduction into the files of this folder.

python results/small/collect.py RUNS [--pair NAME ...]

RUNS is a root of runs, as `layerprobe reproduce all --root RUNS` leaves it. Writes beside this script tables/
(CSV and Markdown), figures/ (PNG), rows.csv.gz and provenance.json from the runs that exist; missing runs are
"not run".
"""

import argparse
import gzip
import io
import json
from pathlib import Path

from PIL import Image

from layerprobe.figures import encode
from layerprobe.paper import published
from layerprobe.paper.figures import FIGURES
from layerprobe.paper.pairs import PAPER_PAIRS
from layerprobe.paper.plans import SCALES, plan
from layerprobe.paper.tables import TABLES
from layerprobe.report.reproduction import Results, record, write_tables

HERE = Path(__file__).parent


def main(root: Path, pairs: list[str]) -> None:
    wanted = plan(["all"], SCALES["small"], pairs)
    results = Results.of_runs(list(wanted.work), root)
    for name in wanted.targets:
        own = results.only(wanted.shown[name])
        if name in TABLES:
            write_tables(own, [name], HERE / "tables", pairs)
            (HERE / "tables" / f"{name}.tex").unlink(missing_ok=True)
        if name in FIGURES and not own.lacks(FIGURES[name]):
            beside = published.table1() if FIGURES[name].published else None
            draw(
                FIGURES[name].draw(own.rows, own.history, published=beside), HERE / "figures" / f"{name}.png"
            )
    rows = results.rows.drop(columns="variant").to_csv(index=False).encode()
    (HERE / "rows.csv.gz").write_bytes(gzip.compress(rows, mtime=0))
    text = json.dumps(record(wanted, root, results.rows), indent=1)
    (HERE / "provenance.json").write_text(text + "\n", encoding="utf-8")


def draw(figure, path: Path) -> None:
    """Write a figure as PNG with 64 colours, which keeps the repository small."""
    path.parent.mkdir(exist_ok=True)
    image = Image.open(io.BytesIO(encode(figure, "png", dpi=100))).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--pair", nargs="+", default=list(PAPER_PAIRS))
    arguments = parser.parse_args()
    main(arguments.root, arguments.pair)
