"""Compare four criteria for the strength of a ridge probe on a memorised network with the test accuracy.

python benchmarks/leave_one_out.py --data DATA --runs ROOT

ROOT holds the run of `layerprobe paper train --pair mlp-mnist --corruption 0.8 --seeds 0 --root ROOT`.
Of the test images 3,000 become a noisy hold-out, the others measure. Writes results/audit/leave_one_out.csv.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from layerprobe.auditing.method.ensemble import HYPERPARAMETERS
from layerprobe.data import noise
from layerprobe.layers import capture
from layerprobe.layers.views import VIEWS
from layerprobe.paper import RunSpec
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.probes import Ridge

LAYERS = ("input", "fc1", "fc2")
HOLDOUT = 3000
OUT = Path(__file__).parents[1] / "results" / "audit" / "leave_one_out.csv"


def main(data: Path, runs: Path) -> None:
    subject = FinishedRun.of(RunSpec.of("mlp-mnist", 0.8, 0), runs, data_root=data)
    model = subject.model()
    x, test_x = subject.inputs
    given, test = torch.tensor(subject.noisy), torch.tensor(subject.test_labels.copy())
    noisy = torch.tensor(noise.uniform(test.numpy(), 0.8, num_classes=10, seed=1).labels)
    names = {name: layer for name, layer in model.probed_layers.items() if name in LAYERS}
    moved = VIEWS["right"](x)
    layers = [*names.values()]
    own, seen, tested = (capture(model, inputs, layers).outputs for inputs in (x, moved, test_x))
    rows = []
    for name, layer in names.items():
        ridge = Ridge().fit(own[layer], given)
        for strength in HYPERPARAMETERS["ridge"]:
            probe = ridge.at(strength)
            scores = probe.decision_function(tested[layer])
            rows.append(
                {
                    "layer": name,
                    "strength": strength,
                    "in_sample": share(probe.decision_function(own[layer]), given),
                    "leave_one_out": share(probe.loo_scores(own[layer], given), given),
                    "unseen_view": share(probe.decision_function(seen[layer]), given),
                    "noisy_holdout": share(scores[:HOLDOUT], noisy[:HOLDOUT]),
                    "test_accuracy": share(scores[HOLDOUT:], test[HOLDOUT:]),
                }
            )
    frame = pd.DataFrame(rows)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    frame.round(4).to_csv(OUT, index=False)
    print(frame.round(3).to_string(index=False))
    for criterion in frame.columns[2:]:
        chosen = frame.loc[frame[criterion].idxmax()]
        print(criterion, *chosen[["layer", "strength", "test_accuracy"]])


def share(scores: torch.Tensor, labels: torch.Tensor) -> float:
    return float((scores.argmax(1) == labels).double().mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    given = parser.parse_args()
    main(given.data, given.runs)
