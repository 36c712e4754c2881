"""Settings of the process do not reach the numbers of any entry point, and are as they were afterwards."""

import contextlib
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from layerprobe import MASC, ClassMoments, audit, audit_features, capture, edit_head, list_layers, plan, probe
from layerprobe.core import fit_subspaces
from layerprobe.errors import LayerprobeWarning
from layerprobe.probes import available, create
from layerprobe.training import Recipe, predict, retrain, train, train_stacked


@contextlib.contextmanager
def changed(read, write, value):
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def default_dtype(dtype):
    return lambda: changed(torch.get_default_dtype, torch.set_default_dtype, dtype)


@contextlib.contextmanager
def meta_by_default():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "float64": default_dtype(torch.float64),
    "bfloat16": default_dtype(torch.bfloat16),
    "float16": default_dtype(torch.float16),
    "meta": meta_by_default,
    "with meta": lambda: torch.device("meta"),
    "deterministic": lambda: changed(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "three threads": lambda: changed(torch.get_num_threads, torch.set_num_threads, 3),
    "medium precision": lambda: changed(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "NumPy raises": lambda: np.errstate(all="raise"),
}


def present():
    return (
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.get_rng_state().sum().item() if torch.get_default_device().type == "cpu" else 0,
        np.geterr(),
    )


rng = np.random.default_rng(0)
Y = np.arange(240) % 4
X = (rng.normal(size=(4, 12))[Y] + rng.normal(size=(240, 12))).clip(0).astype(np.float32)
ROWS, LABELS = torch.from_numpy(X), torch.from_numpy(Y)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


NETWORKS = {name: network() for name in ("probed", "audited")}
TRAINED = {name: [network(seed) for seed in (1, 2)] for name in SETTINGS} | {"": [network(1), network(2)]}


def fit_and_predict(name):
    def result(_):
        made = create(name).fit(ROWS[:160], LABELS[:160])
        scores = made.decision_function(ROWS[160:])
        return scores, made.predict(X[160:]), made.score(X[160:], Y[160:])

    return result


def staged(_):
    masc = create("masc").fit(X[:160], Y[:160])
    ridge = create("ridge").fit(X[:160], Y[:160])
    return [
        *masc.staged_predict(ROWS[160:], [0.5, 0.9]),
        *masc.staged_scores(ROWS[160:], [0.5, 0.9]),
        *ridge.staged_scores(ROWS[160:], [0.1, 1.0]),
        ridge.loo_scores(X[:160], Y[:160]),
        masc.angles(ROWS[160:]),
    ]


def moments(_):
    streamed = ClassMoments(4, 12).update(ROWS[:90], LABELS[:90]).update(ROWS[90:], LABELS[90:])
    masc = create("masc").partial_fit(ROWS[:90], LABELS[:90], classes=range(4)).partial_fit(X[90:], Y[90:])
    subspaces = fit_subspaces(ROWS, LABELS, 4, variance=0.9)
    return streamed.subspaces(variance=0.9).squared_cosines(ROWS), subspaces.predict(ROWS), masc.predict(ROWS)


def probed(_):
    kinds = ["masc", "ncm", "logistic", "lda", "knn"]
    table = probe(NETWORKS["probed"], (ROWS[:160], LABELS[:160]), (ROWS[160:], LABELS[160:]), probes=kinds)
    return table["accuracy"].to_numpy()


def captured(_):
    found = capture(NETWORKS["probed"], (X, Y), pool="mean")
    assert not any(rows.is_inference() for rows in found.outputs.values())
    edited = edit_head(NETWORKS["probed"], (ROWS, LABELS))
    return [*found.outputs.values(), found.labels, edited[2].weight.detach()]


def planned(_):
    names = list_layers(NETWORKS["probed"], ROWS).names
    return len(names), plan(NETWORKS["probed"], (ROWS, LABELS)).layers[1].outputs


def audited(_):
    options = {"policy": "noisy_holdout", "probes": ["ridge", "masc"]}
    rows = {"data": (ROWS[:160], Y[:160]), "holdout": (ROWS[160:], Y[160:]), "controls": False}
    found = audit(NETWORKS["audited"], **rows, **options)
    features = audit_features({"a": X[:160]}, Y[:160], holdout=({"a": X[160:]}, Y[160:]), **options)
    return found.scores, found.issues["is_label_issue"].to_numpy(), features.scores


def trained(setting):
    recipe, models = Recipe("adam", 1e-2, 32, max_epochs=2), TRAINED[setting]
    history = train(models[0], ROWS, LABELS, recipe, order_seed=0, test=(ROWS, LABELS))
    train_stacked(models[1:], ROWS, [LABELS], recipe, order_seeds=[0])
    retrain(models[0], ROWS, LABELS, recipe, order_seed=0, validation=(ROWS, LABELS), patience=2)
    return history[-1].loss, *(model[0].weight.detach() for model in models), predict(models[0], ROWS)


RESULTS = {
    **{f"probe {name}": fit_and_predict(name) for name in available()},
    "staged": staged,
    "moments": moments,
    "probe()": probed,
    "capture": captured,
    "plan": planned,
    "audit": audited,
    "train": trained,
}
OUTSIDE = {}
FOR_AUDITS = ["inference_mode", "autocast bfloat16", "bfloat16", "meta"]  # an audit takes seconds


@pytest.mark.parametrize(
    ("setting", "name"),
    [(s, name) for name in RESULTS for s in (FOR_AUDITS if name == "audit" else SETTINGS)],
)
def test_results_are_those_of_the_default_settings(setting, name):
    with warnings.catch_warnings(action="ignore"):
        if name not in OUTSIDE:
            OUTSIDE[name] = RESULTS[name]("")
        with SETTINGS[setting]():
            before = present()
            inside = RESULTS[name](setting)
            assert present() == before
    for one, other in zip(inside, OUTSIDE[name], strict=True):
        np.testing.assert_allclose(
            np.asarray(one), np.asarray(other), rtol=0 if setting != "three threads" else 1e-6
        )
    assert present()[:3] == (False, True, False)


def lines_of_warnings(call):
    """Return the files that the warnings of the package name."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        call()
    return [one.filename for one in caught if issubclass(one.category, LayerprobeWarning)]


def test_warnings_name_the_line_of_the_user():
    X, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    calls = [
        lambda: MASC(variance=1.0).fit(X, y),
        lambda: MASC().fit(X, y).score(X, y + 1),
        lambda: MASC().fit(X, y).partial_fit(X, y),
        lambda: capture(nn.Sequential(scripted), X),
        lambda: probe(net, (X, y), (X, y + 3 * (y == 2)), probes="ncm"),
        lambda: probe(net, (X, y), probes=["masc"], variances=[1.0]),
        lambda: probe(net, (X[:, :4], y % 2 + 5), probes="ncm"),
    ]
    for call in calls:
        files = lines_of_warnings(call)
        assert files, call
        assert set(files) == {__file__}
