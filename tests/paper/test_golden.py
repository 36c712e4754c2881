"""Golden rows of one tiny run: the same from process to process, and the same as those that are committed.

Run this file to renew golden_rows.json after a change that is meant to change numbers.
"""

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from layerprobe.paper import RunSpec, run_folder
from layerprobe.paper.experiments import EXPERIMENTS
from layerprobe.paper.rows import read_rows

GOLDEN = Path(__file__).parent / "golden_rows.json"
SPEC = RunSpec.of("mlp-digits", 0.4, 0, subset=64, test_subset=50, max_epochs=2)
LEFT_OUT = {"cost", "latent_memorisation", "similarity"}  # seconds; of other runs
NAMES = [name for name in EXPERIMENTS if name not in LEFT_OUT]
SCRIPT = f"""
import sys, torch
torch.set_num_threads(1)
from layerprobe.paper import RunSpec, execute
from layerprobe.paper.analysis import analyse
spec = RunSpec.from_dict({SPEC.to_dict()!r})
execute(spec, sys.argv[1], checkpoints=True)
analyse(spec, sys.argv[1], {NAMES!r})
"""


def machine():
    """What has to be the same for floating point numbers to be the same to the last bit."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    vendor = next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "unknown")
    versions = f"torch {torch.__version__}, numpy {np.__version__}"
    return f"{platform.machine()}, {vendor}, {torch.backends.cpu.get_cpu_capability()}, {versions}"


def measured(root):
    """Rows of every experiment on the run, trained and measured by a process of its own."""
    subprocess.run([sys.executable, "-c", SCRIPT, str(root)], check=True)
    rows = {name: read_rows(run_folder(root, SPEC), name) for name in NAMES}
    return {name: frame[frame["metric"] != "experiment_seconds"] for name, frame in rows.items()}


def summary(rows):
    def digest(frame):
        return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()

    return {
        name: {
            "what": digest(frame.drop(columns="value")),
            "values": digest(frame[["value"]]),
            "mean": frame["value"].mean(),
        }
        for name, frame in rows.items()
    }


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("golden"))


def test_another_process_measures_the_same_to_the_last_bit(rows, tmp_path):
    assert summary(measured(tmp_path)) == summary(rows)


def test_the_committed_rows_are_measured_again(rows):
    golden = json.loads(GOLDEN.read_text("utf-8"))
    now = summary(rows)
    assert list(now) == list(golden["rows"])
    for name, expected in golden["rows"].items():
        assert now[name]["what"] == expected["what"], name
        assert now[name]["mean"] == pytest.approx(expected["mean"], rel=0.02), name  # whatever the processor
        if machine() == golden["machine"]:
            assert now[name]["values"] == expected["values"], name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        record = {"machine": machine(), "rows": summary(measured(folder))}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
