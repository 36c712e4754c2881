"""Compare the audit with other methods on one memorised network, or on several new ones.

python benchmarks/audit.py --data DATA --networks FOLDER [--setting NAME ...] [--seeds 0 1 2] [--rivals]

Trains the networks that FOLDER lacks (`audit_networks.py`), audits them with noisy labels only, and appends
one row per measure to results/audit/rows.csv. Settings and seeds in this file are skipped. Only this script
uses the true labels. `--rivals` adds cleanlab's recipe, out-of-sample probabilities of five early-stopped
networks, which takes as long as training did. `audit_repair.py` has the parts that repair.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import audit_networks as nets
import numpy as np
import pandas as pd
import torch
from audit_repair import confirmed_errors, corrected, repaired
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from layerprobe import audit
from layerprobe.auditing.dataset.labelled import read_rows
from layerprobe.auditing.features import NetworkReader
from layerprobe.auditing.method.ensemble import DEFAULT_PROBES, named_probes, score_candidates
from layerprobe.auditing.method.policies import held_out_set
from layerprobe.layers.views import resolve_views
from layerprobe.networks import build
from layerprobe.training import Recipe, Seeds, seeded, train
from layerprobe.training.loop import accuracy

VIEWS = ("flip", "right", "down")
ROWS = Path(__file__).parents[1] / "results" / "audit" / "rows.csv"
COLUMNS = ["setting", "seed", "policy", "method", "views", "measure", "value"]
Measured = Iterator[tuple[str, str, int, str, float]]  # policy, method, views, measure, value


def main(data_root: Path, folder: Path, names: list[str], seeds: list[int], *, rivals: bool) -> None:
    for seed in seeds:
        for name in names:
            setting = nets.SETTINGS[name]
            data = nets.data_of(setting, seed, data_root)
            networks = nets.network(setting, seed, folder, data)
            memorised, history = networks["memorised"], nets.history(setting, seed, folder)
            parts: dict[str, Callable[[], Measured]]
            if setting.kind == "test_images":
                parts = {"confirmed errors": partial(confirmed_errors, memorised, data, data_root)}
            else:
                parts = {
                    "audit": partial(audited, data, networks, history),
                    "corrected MASC": partial(corrected, memorised, data),
                    "repair": partial(repaired, memorised, data, seed),
                }
                if rivals:
                    parts["cleanlab"] = partial(cross_validated, setting, seed, data)
            for part, measure in parts.items():
                if not done(name, seed, part):
                    add(name, seed, part, list(measure()))


def audited(data: nets.Data, networks: dict[str, torch.nn.Module], history: list[dict[str, str]]) -> Measured:
    """Audit with the policies for noisy labels, with and without views; measure with true labels."""
    wrong = (data.given != data.true).numpy()
    test = read_rows((data.test_x, data.test_true))
    views = resolve_views(VIEWS)
    yield "", "labels", 0, "noise", float(wrong.mean())
    for name, model in networks.items():
        if name == "untrained":
            continue
        seen = NetworkReader(model, layers=["output"], views=views).read(test)
        yield "", f"network, {name}", 0, "test_accuracy", share(seen.logits, data.test_true)
        yield "", f"network, {name}", len(VIEWS), "test_accuracy", share(seen.probabilities, data.test_true)
    memorised = networks["memorised"]
    outputs = NetworkReader(memorised, layers=["output"]).read(read_rows((data.x, data.given))).logits
    own = outputs.softmax(1).gather(1, data.given[:, None]).squeeze(1).numpy()
    yield "", "softmax of the memorised network", 0, "auroc", roc_auc_score(wrong, -own)

    curve = [float(row["test_accuracy"]) for row in history]
    for policy, chosen in (("noisy_holdout", ()), ("noisy_holdout", VIEWS), ("unseen_views", VIEWS)):
        count, start = len(chosen), time.process_time()
        held = (data.holdout_x, data.holdout_given) if policy == "noisy_holdout" else None
        found = audit(
            memorised, (data.x, data.given), policy=policy, holdout=held, views=chosen, history=curve
        )
        seconds = time.process_time() - start
        decoded = found.predict(data.test_x)
        yield policy, "decoder", count, "test_accuracy", float(np.mean(decoded == data.test_true.numpy()))
        yield policy, "decoder", count, "cpu_seconds", seconds
        yield policy, "decoder", count, "auroc", roc_auc_score(wrong, -found.issues["label_score"])
        flags = found.issue_mask()
        yield policy, "flags", count, "share", float(flags.mean())
        yield policy, "flags", count, "precision", float(wrong[flags].mean())
        yield policy, "flags", count, "expected_precision", found.expected_precision
        yield policy, "flags", count, "recall", float((wrong & flags).sum() / wrong.sum())
        for end in ("rate", "low", "high"):
            yield policy, "noise", count, end, float(getattr(found.noise, end))
        for repair in ("all", "confident", "soft"):
            labels = found.relabel(repair).labels
            yield policy, f"labels, {repair}", count, "wrong", float(np.mean(labels != data.true.numpy()))
        yield from regrets(policy, count, found, memorised, data, test)
    yield from untrained_ridge(networks["untrained"], data, test)


def regrets(policy: str, count: int, found, model, data: nets.Data, test) -> Measured:
    """Compare the selected candidate with the best one by test accuracy, with the same views."""
    views = resolve_views(VIEWS[:count])
    train, held = (
        NetworkReader(model, views=views).read(rows) for rows in (read_rows((data.x, data.given)), test)
    )
    test_set = held_out_set(train, held, data.test_true, clean=True)
    tried = score_candidates(
        named_probes(DEFAULT_PROBES), train.mean, data.given, test_set.views, test_set.correct
    )
    by_test = {(t.candidate.layer, t.candidate.probe, t.candidate.hyperparameter): t.criterion for t in tried}
    best = found.layers.iloc[0]
    strength = None if np.isnan(best["strength"]) else best["strength"]
    chosen = by_test[best["layer"], best["probe"], strength]
    yield policy, "best candidate", count, "test_accuracy", chosen
    yield policy, "best candidate", count, "regret", max(by_test.values()) - chosen
    paper = found.layers[(found.layers["probe"] == "masc") & (found.layers["strength"] == 0.99)].iloc[0]
    yield policy, "MASC at 99 %", count, "test_accuracy", by_test[paper["layer"], "masc", 0.99]
    ridge = found.layers[found.layers["probe"] == "ridge"].iloc[0]
    yield (
        policy,
        "one ridge probe",
        count,
        "test_accuracy",
        by_test[ridge["layer"], "ridge", ridge["strength"]],
    )


def untrained_ridge(model: torch.nn.Module, data: nets.Data, test) -> Measured:
    """Select a ridge probe on the untrained network with the noisy hold-out."""
    reader = NetworkReader(model)
    train, held, tested = (
        reader.read(rows)
        for rows in (
            read_rows((data.x, data.given)),
            read_rows((data.holdout_x, data.holdout_given)),
            test,
        )
    )
    probes = named_probes(["ridge"])
    sets = (
        held_out_set(train, held, data.holdout_given, clean=False),
        held_out_set(train, tested, data.test_true, clean=True),
    )
    tried, by_test = (score_candidates(probes, train.own, data.given, s.views, s.correct) for s in sets)
    place = max(range(len(tried)), key=lambda i: tried[i].criterion)
    yield "noisy_holdout", "untrained network, ridge", 0, "test_accuracy", by_test[place].criterion


def cross_validated(setting: nets.Setting, seed: int, data: nets.Data) -> Measured:
    """Rank labels as cleanlab does, by out-of-sample probabilities of five early-stopped networks."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    start = time.process_time()
    probabilities = torch.zeros(len(data.x), int(data.given.max()) + 1)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    for number, (inside, outside) in enumerate(folds.split(data.x, data.given)):
        with seeded(Seeds.derive(seed).init, number):
            model = build(setting.pair).to(memory_format=torch.channels_last)
        best, patience = -1.0, 0
        recipe = Recipe("adam", 1e-3, 128, target=2.0, max_epochs=60)
        held_x, held_y = data.x[outside], data.given[outside]

        def stop(history) -> bool:
            return patience >= 5  # noqa: B023

        def keep(epoch) -> None:
            nonlocal best, patience
            reached = accuracy(model, held_x, held_y)  # noqa: B023
            patience += 1
            if reached > best:
                best, patience = reached, 0
                with torch.inference_mode():
                    probabilities[outside] = model.eval()(held_x).softmax(1)  # noqa: B023

        train(model, data.x[inside], data.given[inside], recipe, order_seed=number, on_epoch=keep, stop=stop)
    wrong = (data.given != data.true).numpy()
    seconds = time.process_time() - start
    given, p, name = data.given.numpy(), probabilities.numpy(), "cleanlab, 5 early-stopped networks"
    for method in ("self_confidence", "normalized_margin"):
        yield (
            "",
            f"{name}, {method}",
            0,
            "auroc",
            roc_auc_score(wrong, -get_label_quality_scores(given, p, method=method)),
        )
    flags = find_label_issues(given, p)
    yield "", name, 0, "share", float(flags.mean())
    yield "", name, 0, "precision", float(wrong[flags].mean())
    yield "", name, 0, "recall", float((wrong & flags).sum() / wrong.sum())
    yield "", name, 0, "cpu_seconds", seconds


def share(scores: torch.Tensor, labels: torch.Tensor) -> float:
    return float((scores.argmax(1) == labels).double().mean())


def done(name: str, seed: int, part: str) -> bool:
    """Return whether these measures exist."""
    if not ROWS.exists():
        return False
    rows = pd.read_csv(ROWS, keep_default_na=False)
    return bool(((rows["setting"] == name) & (rows["seed"] == seed) & (rows["part"] == part)).any())


def add(name: str, seed: int, part: str, measured: list[tuple[str, str, int, str, float]]) -> None:
    """Append all measures of a part at once."""
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.DataFrame([(name, seed, *row) for row in measured], columns=COLUMNS).assign(part=part)
    rows.to_csv(ROWS, mode="a", header=not ROWS.exists(), index=False)
    print(rows.to_string(), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--setting", nargs="+", default=list(nets.SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rivals", action="store_true")
    given = parser.parse_args()
    main(given.data, given.networks, given.setting, given.seeds, rivals=given.rivals)
