"""Every wrong argument of the audit ends in one error of the family, before the work."""

import numpy as np
import pytest
import torch
from torch import nn

from auditing.planted import clusters
from layerprobe import audit, audit_features
from layerprobe.auditing import Audit, plan_audit
from layerprobe.errors import LayerprobeError

X, Y = clusters(60)
HX, HY = clusters(30, seed=1)
FEATURES, HELD = {"fc": X}, ({"fc": HX}, HY)
OBJECTS = np.empty((60, 2), object)
MODEL = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
NESTED = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)])
QUANTISED = torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)

BOTH = {
    "policy list": {"policy": ["noisy_holdout"]},
    "seed float": {"seed": 0.5},
    "seed text": {"seed": "0"},
    "seed negative": {"seed": -1},
    "seed bool": {"seed": True},
    "views number": {"views": 3},
    "probes number": {"probes": 3},
    "probes None": {"probes": None},
    "probes mapping of numbers": {"probes": {"a": 3}},
    "no probes": {"probes": []},
    "class_names number": {"class_names": 3},
    "class_names missing": {"class_names": ["a", None, "b"]},
    "class_names repeated": {"class_names": ["a", "a", "b"]},
    "history number": {"history": 0.5},
    "history texts": {"history": ["0.5"]},
    "history NaN": {"history": [0.5, float("nan")]},
    "history complex": {"history": [1j]},
    "progress text": {"progress": "print"},
    "labels of other length": {"labels": Y[:5]},
    "labels float": {"labels": Y + 0.5},
    "labels infinite": {"labels": torch.where(Y == 0, torch.inf, 1.0)},
    "labels NaN": {"labels": torch.where(Y == 0, torch.nan, 1.0)},
    "labels None inside": {"labels": [None if k == 0 else "a" for k in Y]},
    "labels ignored": {"labels": torch.where(Y == 0, -100, Y)},
    "labels soft": {"labels": torch.full((60, 3), 1 / 3)},
    "labels soft NaN": {"labels": torch.full((60, 3), torch.nan)},
    "labels unhashable": {"labels": [{} for _ in Y]},
    "labels ragged": {"labels": [[0], [0, 1]] * 30},
    "labels number": {"labels": 3},
    "labels complex": {"labels": Y + 1j},
    "labels meta": {"labels": torch.empty(60, device="meta")},
    "one class": {"labels": torch.zeros(60, dtype=torch.int64)},
}
ONLY_FEATURES = {
    "policy None without rows": {"policy": None, "holdout": None},
    "features None": {"features": None},
    "features empty": {"features": {}},
    "features tensor": {"features": X},
    "lengths differ": {"features": {"a": X, "b": X[:5]}},
    "NaN": {"features": {"fc": X * torch.nan}},
    "infinite": {"features": {"fc": X / 0}},
    "1e300": {"features": {"fc": X.double() * 1e300}},
    "3e38": {"features": {"fc": torch.full((60, 2), 3e38)}},
    "objects": {"features": {"fc": OBJECTS}},
    "texts": {"features": {"fc": np.full((60, 2), "a")}},
    "dates": {"features": {"fc": np.full((60, 2), np.datetime64("2020-01-01"))}},
    "sparse": {"features": {"fc": X.to_sparse()}},
    "meta": {"features": {"fc": X.to("meta")}},
    "quantised": {"features": {"fc": QUANTISED}},
    "nested tensor": {"features": {"fc": NESTED}},
    "complex": {"features": {"fc": X + 1j}},
    "ragged": {"features": {"fc": [[1.0], [1.0, 2.0]]}},
    "one number per row": {"features": {"fc": X[:, 0]}},
    "held out None": {"holdout": None},
    "held out of one part": {"holdout": (HELD[0],)},
    "held out longer": {"holdout": (HELD[0], HY[:7])},
    "held out of other layers": {"holdout": ({"other": HX}, HY)},
    "held out of other width": {"holdout": ({"fc": HX[:, :3]}, HY)},
    "held out NaN labels": {"holdout": (HELD[0], HY * torch.nan)},
    "held out soft": {"holdout": (HELD[0], torch.ones(30, 3))},
    "held out of other classes": {"holdout": (HELD[0], HY + 7)},
    "views of other rows": {"views": [{"fc": X[:7]}]},
    "views of numbers": {"views": [3]},
    "index repeated": {"index": [0] * 60},
    "index short": {"index": [0, 1]},
    "index unhashable": {"index": [[]] * 60},
}
ONLY_NETWORKS = {
    "policy None": {"policy": None},
    "model None": {"model": None},
    "model class": {"model": nn.Linear},
    "model function": {"model": torch.relu},
    "model list": {"model": [MODEL]},
    "batch_size zero": {"batch_size": 0},
    "batch_size float": {"batch_size": 2.5},
    "batch_size text": {"batch_size": "64"},
    "device text": {"device": "nowhere"},
    "device number": {"device": 2.5},
    "layers number": {"layers": 3},
    "layers of numbers": {"layers": [3]},
    "pool number": {"pool": 3},
    "inputs text": {"inputs": "tokenizer"},
    "views of numbers": {"views": [3]},
    "controls text": {"controls": "yes"},
    "data None": {"data": None},
    "data number": {"data": 3},
    "data of other width": {"data": X[:, :3]},
    "data sparse": {"data": X.to_sparse()},
    "data meta": {"data": X.to("meta")},
    "data objects": {"data": OBJECTS},
    "data of other length": {"data": (X, Y[:7]), "labels": None},
}


def message_of(call):
    with pytest.raises(LayerprobeError) as caught:
        call()
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("case", [*BOTH, *ONLY_FEATURES])
def test_wrong_argument_of_audit_features(case):
    given = {"features": FEATURES, "labels": Y, "policy": "noisy_holdout", "holdout": HELD, "probes": "ncm"}
    given |= {**BOTH, **ONLY_FEATURES}[case]
    message_of(lambda: audit_features(given.pop("features"), given.pop("labels"), **given))


@pytest.mark.parametrize("case", [*BOTH, *ONLY_NETWORKS])
def test_wrong_argument_of_audit(case):
    given = {"model": MODEL, "data": X, "labels": Y, "policy": "noisy_holdout", "holdout": (HX, HY)}
    given |= {"probes": "ncm", "controls": False, **{**BOTH, **ONLY_NETWORKS}[case]}
    three = given.pop("model"), given.pop("data"), given.pop("labels")
    message_of(lambda: audit(*three, **given))
    if case != "progress text":
        message_of(lambda: plan_audit(*three, **given))


@pytest.fixture(scope="module")
def audited():
    return audit_features(FEATURES, Y, policy="noisy_holdout", holdout=HELD, probes="ncm")


METHODS = {
    "relabel: policy": lambda audited: audited.relabel("best"),
    "relabel: None": lambda audited: audited.relabel(None),
    "relabel: list": lambda audited: audited.relabel(["soft"]),
    "relabel: margin text": lambda audited: audited.relabel(margin="much"),
    "relabel: margin": lambda audited: audited.relabel(margin=2),
    "relabel: margin NaN": lambda audited: audited.relabel(margin=float("nan")),
    "retrain": lambda audited: audited.retrain(),
    "retrain: number": lambda audited: audited.retrain(3),
    "edit_head": lambda audited: audited.edit_head(),
    "predict: None": lambda audited: audited.predict(None),
    "predict: layer": lambda audited: audited.predict({"other": X}),
    "predict: width": lambda audited: audited.predict({"fc": X[:, :2]}),
    "predict: NaN": lambda audited: audited.predict({"fc": X * torch.nan}),
    "predict: nested": lambda audited: audited.predict({"fc": NESTED}),
    "report: folder": lambda audited: audited.report("/nowhere/at/all.html"),
    "report: None": lambda audited: audited.report(None),
    "save: folder": lambda audited: audited.save("/nowhere/at/all"),
    "save: number": lambda audited: audited.save(3),
    "load: missing": lambda _: Audit.load("/nowhere/at/all"),
    "load: None": lambda _: Audit.load(None),
    "load: other file": lambda _: Audit.load(__file__),
}


@pytest.mark.parametrize("case", METHODS)
def test_wrong_argument_of_a_method(audited, case):
    message_of(lambda: METHODS[case](audited))
