"""Commands as the processes of one job run them; what each process said, as JSON."""

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from layerprobe.cli import main
from layerprobe.paper import RunSpec, execute
from layerprobe.utils.distributed import group

TRAIN = ["paper", "train", "--pair", "mlp-digits", "--corruption", "0.4", "--max-epochs", "2"]
TRAIN += ["--subset", "100", "--test-subset", "31", "--checkpoints", "--root", "runs"]
AUDIT = ["audit", "--model", "job_net:build", "--data", "train.npz", "--policy", "noisy_holdout"]
AUDIT += ["--holdout", "held.npz", "--batch-size", "8", "--json"]
PROBE = ["probe", "--model", "job_net:build", "--data", "train.npz", "--test", "held.npz"]
PROBE += ["--variances", "0.5", "0.9", "--batch-size", "8", "--json"]
INTERRUPTED = RunSpec.of("mlp-digits", 0.2, 0, subset=100, test_subset=31, max_epochs=2)


def run(arguments):
    """Return exit code, stdout and stderr of a command."""
    said, told = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(told):
        code = main(arguments)
    return code, said.getvalue(), told.getvalue()


def interrupt(_):
    raise KeyboardInterrupt


def job(folder):
    os.chdir(folder)
    number = os.environ["RANK"]
    said = {
        "train": run([*TRAIN, "--seeds", "0", "1", "--json"]),
        "again": run([*TRAIN, "--seeds", "0", "1", "--json"]),
        "jobs": run([*TRAIN, "--seeds", "2", "--jobs", "2"]),
        "stacked": run([*TRAIN, "--seeds", "2", "--stacked"]),
        "demo": run(["demo"]),
        "audit": run(AUDIT),
        "dry": run([*AUDIT, "--dry-run"]),
        "probe": run(PROBE),
    }
    with group("gloo", timeout_s=60):
        try:
            execute(INTERRUPTED, "runs", on_epoch=interrupt)
        except KeyboardInterrupt:
            said["interrupted"] = True
    Path(f"{number}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    job(sys.argv[1])
