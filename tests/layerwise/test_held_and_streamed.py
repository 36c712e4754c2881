"""probe() with outputs held and with sums instead: same results, few forward passes, less memory."""

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe import MASC, plan, probe
from layerprobe.core.moments import ClassMoments
from layerprobe.core.statistics import LayerSums
from layerprobe.errors import DegenerateWarning, InputError
from layerprobe.layers import capturing
from layerprobe.layerwise import LabelSets, fit_layer

generator = torch.Generator().manual_seed(0)
N, K = 4000, 4
TRUE = torch.arange(N) % K
X = 2 * torch.randn(K, 16, generator=generator)[TRUE] + 2 * torch.randn(N, 16, generator=generator)
X *= 0.8 ** torch.arange(16)
NOISY = torch.where(torch.rand(N, generator=generator) < 0.3, (TRUE + 1) % K, TRUE)
TEST_X, TEST_TRUE = X[:100] + 0.1, TRUE[:100]
SETS = {"noisy": NOISY, "true": TRUE}
BY_SUMS = ["masc", "velpic", "ncm", "lda", "ridge", "shrinkage_lda"]
SMALL = 1_750_000  # bytes: below the outputs, above the sums


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, K))


@pytest.fixture
def forwards(model):
    """Rows of each forward pass."""
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    return seen


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch):
    monkeypatch.setattr(ClassMoments, "buffer_rows", staticmethod(lambda K, d, n=None: 64))


def accuracies(table):
    return table.drop(columns="seconds").reset_index(drop=True)


def test_held_and_streamed_give_the_same_table(model, forwards):
    options = {"train_labels": SETS, "probes": BY_SUMS, "variances": [0.5, 0.9, 0.99], "batch_size": 256}
    held = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), **options)
    # two rows give the dimensions; each first batch is compared with one of another size
    assert forwards == [3, 2, 64] + [256] * 15 + [160] + [64, 100]
    forwards.clear()
    streamed = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), **options, memory=SMALL)
    assert forwards == [3, 2] + ([64] + [256] * 15 + [160]) * 2 + [64, 100]
    assert accuracies(streamed).equals(accuracies(held))
    assert set(held["probe"]) == {"masc 0.5", "masc 0.9", "masc 0.99", *BY_SUMS[1:], "network"}
    assert (streamed["seconds"].dropna() > 0).all()


def test_streaming_equals_probing_by_hand(model):
    table = probe(model, (X, NOISY), train_labels=SETS, probes="masc", layers="1", memory=850_000)
    with torch.inference_mode():
        rows = model[:2](X)
    for fitted_on, labels in SETS.items():
        masc = MASC().fit(rows, labels)
        part = table[(table.fitted_on == fitted_on) & (table.probe == "masc")].set_index("labels")
        assert part["accuracy"].to_dict() == {name: masc.score(rows, truth) for name, truth in SETS.items()}
        assert part["components"].iloc[0] == np.mean(masc.subspaces_.ranks)


def test_variances_share_one_fit():
    labels = LabelSets.of({"noisy": NOISY, "true": TRUE})
    probes = {f"masc {variance}": MASC(variance) for variance in (0.5, 0.8, 0.99)}
    fitted = fit_layer("input", probes, labels, X)
    for fitted_on in labels.names:
        columns = {id(f.estimator.subspaces_.columns) for f in fitted if f.fitted_on == fitted_on}
        assert len(columns) == 1


def test_several_variances_equal_separate_calls(model):
    several = probe(model, (X, NOISY), train_labels=SETS, variances=[0.5, 0.8, 0.99], layers=["1", "3"])
    for variance in (0.5, 0.8, 0.99):
        alone = probe(
            model,
            (X, NOISY),
            train_labels=SETS,
            probes={f"masc {variance}": MASC(variance)},
            layers=["1", "3"],
        )
        both = several[several.probe.isin([f"masc {variance}", "network"])]
        assert accuracies(both).equals(accuracies(alone))


@pytest.mark.parametrize("indexed", [False, True])
def test_a_shuffling_loader_streams(model, indexed):
    data = TensorDataset(X, NOISY, torch.arange(N)) if indexed else TensorDataset(X, NOISY)
    loader = DataLoader(data, batch_size=200, shuffle=True)
    named = {"train_labels": SETS} if indexed else {}
    streamed = probe(model, loader, (TEST_X, TEST_TRUE), probes=["ncm", "masc"], memory=SMALL, **named)
    held = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), probes=["ncm", "masc"], **named)
    columns = ["layer", "probe", "fitted_on", "split", "labels"]
    assert streamed[columns].equals(held[columns])
    np.testing.assert_allclose(streamed["accuracy"], held["accuracy"], atol=0.003)


def test_string_labels_stream(model):
    names = np.array(["ant", "bee", "cat", "dog"])
    streamed = probe(model, (X, names[NOISY]), (TEST_X, names[TEST_TRUE]), memory=SMALL)
    held = probe(model, (X, names[NOISY]), (TEST_X, names[TEST_TRUE]))
    assert accuracies(streamed).equals(accuracies(held))


def test_streamed_sums_take_at_most_the_planned_memory(model, monkeypatch):
    found = plan(model, (X, NOISY), label_sets=2, probes=BY_SUMS, layers=["1", "3"], changed=0.4)
    by_layer = {layer.name: layer.sums for layer in found.layers}
    dims = {layer.dim: layer.name for layer in found.layers}
    most = dict.fromkeys(by_layer, 0)
    update = LayerSums.update

    def watched(self, rows, codes):
        update(self, rows, codes)
        scatter = self.scatter.parts if self.scatter else []
        held = sum(part.nbytes for part in [self.counts, self.sums, *scatter, *self.moments])
        most[dims[self.dim]] = max(most[dims[self.dim]], held)

    monkeypatch.setattr(LayerSums, "update", watched)
    held = []
    monkeypatch.setattr(capturing.RowCollector, "add", lambda self, outputs, *_: held.extend(outputs))
    probe(
        model, (X, NOISY), train_labels=SETS, probes=BY_SUMS, layers=["1", "3"], memory=SMALL, batch_size=64
    )
    assert {layer: 0.5 * bound < most[layer] <= bound for layer, bound in by_layer.items()} == {
        "1": True,
        "3": True,
    }
    assert not held


def test_too_small_memory_limit_is_an_error_with_advice(model, forwards):
    with pytest.raises(InputError, match=r"the budget is 390\.6 KiB: .*") as raised:
        probe(model, (X, NOISY), train_labels=SETS, memory="400kB")
    assert forwards == [3, 2]  # two rows give the dimensions
    for word in ("pool '1', of 64 features", "fewer layers by layers="):
        assert word in str(raised.value)
    with pytest.raises(InputError, match="probes that need rows: all but masc"):
        probe(model, (X, NOISY), probes=["masc", "knn"], memory="20kB")
    with pytest.raises(InputError, match="first 150 rows"):
        probe(model, ((X[:50], NOISY[:50]) for _ in range(30)), memory=50_000)


def test_probes_that_need_rows_hold_outputs(model, forwards):
    probes = {"tree": DecisionTreeClassifier(random_state=0), "masc": MASC()}
    table = probe(model, (X, NOISY), probes=probes, layers="1")
    assert set(table["probe"]) == {"tree", "masc", "network"}
    assert forwards == [3, 2, 64] + [512] * 7 + [416]


def test_probes_that_need_rows_take_one_layer_at_a_time_where_all_do_not_fit(model, forwards):
    probes = {"tree": DecisionTreeClassifier(random_state=0), "masc": MASC()}
    held = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), probes=probes)
    forwards.clear()
    by_layer = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), probes=probes, memory=1_750_000)
    assert forwards == [3, 2] + ([64] + [512] * 7 + [416]) * 3 + [64, 100]  # input, 1, 3
    assert accuracies(by_layer).equals(accuracies(held))


class Dies(nn.Module):
    """Has a layer with NaN, and one that is the same on all rows."""

    def __init__(self):
        super().__init__()
        self.fine, self.nan, self.same = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(16, K)

    def forward(self, x):
        rows = self.fine(x)
        self.nan(rows / rows)
        self.same(0 * rows)
        return self.head(rows)


@pytest.mark.parametrize("memory", [None, 700_000])
def test_a_probe_that_cannot_be_fitted_on_a_layer_leaves_the_others_in_the_table(memory):
    layers = ["fine", "nan", "same"]
    with pytest.warns(DegenerateWarning) as warned:
        table = probe(
            Dies(), (X, NOISY), (TEST_X, TEST_TRUE), layers=layers, probes=["lda", "ncm"], memory=memory
        )
    found = table[(table["split"] == "test") & (table["probe"] != "network")].set_index(["layer", "probe"])
    alone = probe(Dies(), (X, NOISY), (TEST_X, TEST_TRUE), layers="fine", probes=["lda", "ncm"])
    alone = alone[(alone["split"] == "test") & (alone["probe"] != "network")].set_index(["layer", "probe"])
    for name in ("lda", "ncm"):
        assert found["accuracy"]["fine", name] == alone["accuracy"]["fine", name]
        assert np.isnan(found["accuracy"]["nan", name])
        assert "layer 'nan': X has NaN or infinity" in found["reason"]["nan", name]
    assert np.isnan(found["accuracy"]["same", "lda"])
    assert "layer 'same'" in found["reason"]["same", "lda"]
    assert found["accuracy"]["same", "ncm"] == (TEST_TRUE == 0).double().mean()
    assert {"'nan'" in str(one.message) for one in warned} == {True, False}
    assert "nan" in repr(table)


def test_invalid_variances_are_refused(model):
    for variances, probes in (([], "masc"), ([0.5, 0.5], "masc"), ([0.5], "ncm"), (0.5, "masc")):
        with pytest.raises(InputError, match="variances"):
            probe(model, (X, NOISY), variances=variances, probes=probes)


def test_own_output_of_the_model_is_not_held():
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1000))
    model[2].bias.data[K:] -= 100  # never predicts the classes that the labels do not have
    batches = ((X[i : i + 50], TRUE[i : i + 50]) for i in range(0, 1500, 50))
    limit = 4 * 1500 * 8 + 1000  # bytes of layer "1"; the own output takes 125 times as many
    table = probe(model, batches, layers=["1"], memory=limit)
    network = table[(table["probe"] == "network") & (table["split"] == "train")]["accuracy"].item()
    assert network == (model(X[:1500]).argmax(1) == TRUE[:1500]).double().mean().item()


def test_integer_labels_of_any_type_are_equal(model):
    tables = [
        accuracies(
            probe(model, (X, NOISY), train_labels={"noisy": NOISY.numpy(), "true": TRUE.numpy().astype(kind)})
        )
        for kind in ("int64", "uint8", ">i4")
    ]
    assert "network" in set(tables[0]["probe"])
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
