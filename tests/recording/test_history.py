"""History in a plain loop: its numbers equal those of a loop by hand, and the training stays as it was."""

import copy
import random

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

import layerprobe
from layerprobe import History
from layerprobe.baselines import AUM, DataMaps
from layerprobe.errors import DataError, InputError, LayerError
from layerprobe.probes import NearestClassMean, Ridge
from layerprobe.training import seeded

N, K, D = 60, 3, 5


def rows(n=N, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, K, (n,), generator=generator)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64) + 2 * nn.functional.one_hot(y, D)
    return x.to(dtype), y


X, Y = rows()
HELD = rows(40, seed=1)


def network(dtype=torch.float32, seed=3):
    with seeded(seed):
        layers = [nn.Linear(D, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, K)]
        return nn.Sequential(*layers).to(dtype)


def quiet(labels=Y, **options):
    return History(labels, progress=False, **options)


def fit(model, after_step=None, after_epoch=None, epochs=3, x=X, y=Y):
    """A plain loop with shuffled batches."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    torch.manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(16):
            logits = model(x[index])
            optimizer.zero_grad()
            cross_entropy(logits, y[index]).backward()
            optimizer.step()
            if after_step:
                after_step(index, logits)
        if after_epoch:
            after_epoch(model)
    return model


def by_hand(steps, y, n=N):
    """Margin, probability and correctness of each row and epoch from the logits, one row at a time."""
    values = np.full((len(steps), 3, n), np.nan)
    for e, batches in enumerate(steps):
        found = {}
        for index, logits in batches:
            for i, z in zip(index.tolist(), logits.detach().double().numpy(), strict=True):
                own = z[y[i]]
                margin = own - max(z[k] for k in range(len(z)) if k != y[i])
                probability = 1 / sum(np.exp(z - own))
                found.setdefault(i, []).append((margin, probability, z.argmax() == y[i]))
        for i, several in found.items():
            values[e, :, i] = np.mean(np.array(several, float), axis=0)
    return values


def test_values_equal_those_of_a_loop_by_hand():
    x, y = rows(dtype=torch.float64)
    history, steps = quiet(y, full=True), [[], [], []]

    def record(index, logits):
        history.update(index, logits)
        steps[history.num_epochs].append((index, logits))

    fit(network(torch.float64), record, lambda model: history.epoch(), x=x)
    margin, probability, correct = by_hand(steps, y).transpose(1, 0, 2)
    np.testing.assert_allclose(history.aum, margin.mean(0), rtol=1e-12)
    np.testing.assert_allclose(history.confidence, probability.mean(0), rtol=1e-12)
    np.testing.assert_allclose(history.variability, probability.std(0), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(history.correctness, correct.mean(0), rtol=1e-12)
    np.testing.assert_allclose(history.train_fit, correct.mean(1), rtol=1e-12)
    np.testing.assert_array_equal(history.margins, margin.astype(np.float32))
    np.testing.assert_array_equal(history.probabilities, probability.astype(np.float32))
    assert history.num_epochs == 3


def test_order_of_the_rows_in_an_epoch_does_not_matter():
    logits = torch.randn(3, N, K, generator=torch.Generator().manual_seed(5))
    one, other = quiet(), quiet()
    for e in range(3):
        one.update(range(N), logits[e])
        for part in torch.randperm(N).split(7):
            other.update(part.tolist(), logits[e][part])
        one.epoch()
        other.epoch()
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame(), check_exact=True)
    np.testing.assert_array_equal(one.train_fit, other.train_fit)


def test_repeated_rows_count_with_their_mean_and_missing_rows_not_at_all():
    generator = torch.Generator().manual_seed(6)
    history = quiet(full=True)
    steps = []
    for index in ([4, 4, 4, 7, 9], [7, 2, 2], [4]):
        index = torch.tensor(index)
        steps.append([(index, torch.randn(len(index), K, generator=generator, dtype=torch.float64))])
        history.update(*steps[-1][0])
        ended = history.epoch()
        assert ended.rows == len(index.unique())
    values = by_hand(steps, Y)
    seen = [2, 4, 7, 9]
    np.testing.assert_allclose(history.aum[seen], np.nanmean(values[:, 0, seen], 0), rtol=1e-12)
    np.testing.assert_allclose(history.variability[seen], np.nanstd(values[:, 1, seen], 0), rtol=1e-12)
    np.testing.assert_allclose(history.train_fit, np.nanmean(values[:, 2], 1), rtol=1e-12)
    frame = history.to_frame()
    assert frame["epochs"][seen].tolist() == [1, 2, 2, 1]
    assert frame["epochs"].sum() == 6
    assert frame.drop(index=seen)[["aum", "confidence", "variability"]].isna().all(axis=None)
    assert np.isnan(history.margins[1, 4])


def test_pass_over_the_data_equals_updates_in_eval_mode():
    model = fit(network())
    history, other = quiet(data=X, holdout=HELD), quiet()
    ended = history.epoch(model)
    with torch.no_grad():
        other.update(range(N), model.eval()(X))
    other.epoch()
    np.testing.assert_allclose(history.aum, other.aum, rtol=1e-5)
    assert history.train_fit == other.train_fit
    right = model(HELD[0]).argmax(1) == HELD[1]
    assert history.holdout_accuracy.tolist() == [right.double().mean()]
    assert ended.holdout_accuracy == history.holdout_accuracy[0]
    assert history.curves["epoch"].tolist() == [1]


class Rows(Dataset):
    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, i):
        return tuple(column[i] for column in self.columns)


FORMS = {
    "x": X,
    "(x, y)": (X, Y),
    "dataset": TensorDataset(X, Y),
    "rows with index": Rows(X, Y, torch.arange(N)),
    "shuffled loader": DataLoader(TensorDataset(X, Y), 8, shuffle=True, drop_last=True),
    "data frame": pd.DataFrame(X.numpy()),
    "shuffled batches with index": [(X[i], Y[i], i) for i in torch.randperm(N).split(9)],
    "keywords": {"input": X},
}


@pytest.mark.parametrize("form", FORMS)
def test_data_of_any_form_give_the_same_history(form):
    model = network()
    layer = None if form == "shuffled batches with index" else "2"
    expected, history = (
        quiet(data=data, holdout=HELD, layer=layer, probe_rows=30) for data in (X, FORMS[form])
    )
    expected.epoch(model)
    history.epoch(model)
    np.testing.assert_allclose(history.aum, expected.aum, atol=1e-5)
    assert history.curves.equals(expected.curves)


def test_texts_go_through_inputs():
    words = ["ab", "b", "a", "bba", "aab"] * 12

    def encode(texts):
        return torch.tensor([[text.count("a"), text.count("b"), len(text), 0, 1] for text in texts]).float()

    labels = np.arange(60) % 3
    model = network()
    history = quiet(labels, data=words, holdout=(words[:20], labels[:20]), inputs=encode, layer="2")
    history.epoch(model)
    other = quiet(labels)
    other.update(range(60), model.eval()(encode(words)))
    other.epoch()
    np.testing.assert_allclose(history.aum, other.aum, rtol=1e-5)
    assert 0 <= history.probe_accuracy[0] <= 1


def test_probe_is_fitted_to_training_rows_and_scored_on_the_holdout():
    model = fit(network()).eval()
    history = quiet(data=X, holdout=HELD, layer="2", probe_rows=1000)
    history.epoch(model)
    hidden = model[:3]
    expected = NearestClassMean().fit(hidden(X).detach(), Y).score(hidden(HELD[0]).detach(), HELD[1])
    assert history.probe_accuracy.tolist() == pytest.approx([expected])
    ridge = quiet(data=X, holdout=HELD, layer="2", probe=Ridge(strength=1.0))
    ridge.epoch(model)
    expected = Ridge(strength=1.0).fit(hidden(X).detach(), Y).score(hidden(HELD[0]).detach(), HELD[1])
    assert ridge.probe_accuracy.tolist() == pytest.approx([expected])


def test_part_of_the_rows_for_the_probe_is_fixed():
    model = network().eval()
    history = quiet(data=X, holdout=HELD, layer="2", probe_rows=12)
    for _ in range(3):
        history.epoch(model)
    assert len(set(history.probe_accuracy)) == 1


class Careless(nn.Module):
    """Counts its calls and draws random numbers in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.inner = network()
        self.frozen = nn.BatchNorm1d(D)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.last = x.sum()
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        return self.inner(self.frozen(x))


def random_states():
    return torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002


def test_epoch_does_not_change_network_gradients_or_generators():
    model = fit(Careless()).train()
    model.frozen.eval()
    cross_entropy(model(X), Y).backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    buffers = [id(buffer) for buffer in model.buffers()]
    torch_state, python, numpy = random_states()
    quiet(data=X, holdout=HELD, layer="inner.2").epoch(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [id(buffer) for buffer in model.buffers()] == buffers
    assert not any(buffer.is_inference() for buffer in model.buffers())
    assert all(
        torch.equal(p.grad, g) and p.requires_grad for p, g in zip(model.parameters(), gradients, strict=True)
    )
    assert model.training
    assert model.inner.training
    assert not model.frozen.training
    after = random_states()
    assert torch.equal(after[0], torch_state)
    assert after[1] == python
    assert (after[2] == numpy).all()
    assert not any(module._forward_hooks for module in model.modules())


def test_state_is_restored_after_an_error():
    model = Careless().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LayerError, match="no layer matches"):
        quiet(data=X, holdout=HELD, layer="missing").epoch(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_pass_that_fails_leaves_no_rows():
    history, expected = quiet(data=(X[:-5], Y[:-5])), quiet(data=X)
    with pytest.raises(InputError, match=f"{N - 5}"):
        history.epoch(network())
    history.data = X
    assert history.epoch(network()) == expected.epoch(network())


def test_onset_counts_the_rows_that_were_recorded(monkeypatch):
    monkeypatch.setattr("layerprobe.recording.history.memorisation_onset", lambda *_, train_rows: train_rows)
    history = quiet()
    assert history.onset == N
    for rows in (9, 7):
        history.update(range(rows), torch.randn(rows, 3))
        history.epoch()
    assert history.onset == 7


def test_training_is_the_same_with_and_without_a_history():
    history = quiet(holdout=HELD, data=X, layer="2")
    one, other = fit(network()), fit(network(), history.update, history.epoch)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert history.num_epochs == 3


def test_epoch_within_autocast_does_not_disturb_the_gradients():
    model = network()
    history = quiet(holdout=HELD, data=X)
    with torch.autocast("cpu", torch.bfloat16):
        history.epoch(model)
        logits = model(X)
        assert logits.dtype is torch.bfloat16
        history.update(range(N), logits)
        cross_entropy(logits, Y).backward()
    history.epoch(model)
    assert all(parameter.grad is not None for parameter in model.parameters())
    z = logits.detach().float()
    margin = z.gather(1, Y[:, None])[:, 0] - z.scatter(1, Y[:, None], -torch.inf).amax(1)
    first = quiet()
    first.update(range(N), logits)
    first.epoch()
    np.testing.assert_allclose(first.aum, margin.numpy(), rtol=1e-6)


def test_values_of_single_epochs_are_kept_only_in_full(tmp_path):
    history = quiet()
    sizes = []
    for _ in range(5):
        history.update(range(N), torch.randn(N, K))
        history.epoch()
        history.save(tmp_path / "history")
        tensors = load_file(tmp_path / "history")
        sizes.append(sum(tensor.nbytes for name, tensor in tensors.items() if name != "curves"))
    assert len(set(sizes)) == 1
    with pytest.raises(InputError, match="full=True"):
        history.margins  # noqa: B018


# Progress -----------------------------------------------------------------------------------------------


def memorising(history):
    """Epochs whose hold-out accuracy falls while the fit rises."""

    class Table(nn.Module):
        share = 0.0

        def forward(self, x):
            right = torch.arange(len(x)) < self.share * len(x)
            return nn.functional.one_hot(torch.where(right, 0, 1), 2).float()

    model = Table()
    n = len(history.labels)
    for fitted, model.share in ((0.5, 0.5), (0.6, 0.8), (0.7, 0.7), (0.8, 0.5), (0.9, 0.5), (0.95, 0.5)):
        right = torch.arange(n) < fitted * n
        history.update(range(n), nn.functional.one_hot(torch.where(right, 0, 1), 2).float())
        yield history.epoch(model)


def planted(progress):
    x = torch.zeros(500, 1)
    zeros = torch.zeros(500, dtype=torch.int64)
    return History(np.zeros(1000, int), holdout=(x, zeros), progress=progress, batch_size=500)


def test_progress_is_one_line_per_epoch():
    lines = []
    history = planted(lines.append)
    epochs = list(memorising(history))
    assert len(lines) == 6
    assert lines[1] == (
        "epoch 2: training labels fitted 60.0%, hold-out 80.0% (best 80.0% in epoch 2); "
        "no significant loss on the hold-out"
    )
    assert lines[5] == (
        "epoch 6: training labels fitted 95.0%, hold-out 50.0% (best 80.0% in epoch 2); "
        "memorisation since epoch 3, best epoch 2"
    )
    assert [epoch.memorises for epoch in epochs] == [False] * 4 + [True] * 2
    assert history.onset == (2, 3)


def test_progress_goes_to_stderr_and_can_be_switched_off(capsys):
    list(memorising(planted(True)))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 6
    list(memorising(planted(False)))
    assert capsys.readouterr().err == ""


def test_line_names_the_probe():
    lines = []
    history = History(Y, data=X, holdout=HELD, layer="2", probe="ridge", progress=lines.append)
    history.epoch(network())
    assert f"ridge on 2 {history.probe_accuracy[0]:.1%}" in lines[0]


def test_holdout_alone_is_enough_for_its_accuracy():
    lines = []
    history = History(Y, holdout=HELD, progress=lines.append)
    ended = history.epoch(network())
    assert ended.rows == 0
    assert np.isnan(ended.train_fit)
    assert 0 <= ended.holdout_accuracy <= 1
    assert "fitted" not in lines[0]
    assert history.onset is None
    with pytest.raises(InputError, match="no training rows"):
        history.aum  # noqa: B018


# Files, figure, audit -----------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
def test_saved_history_continues(tmp_path, full):
    path = tmp_path / "history.safetensors"
    options = {"data": X, "holdout": HELD, "layer": "2", "progress": False}
    history = History(Y, full=full, **options)
    model = fit(network(), after_epoch=history.epoch)
    history.save(path)
    loaded = History.load(path)
    pd.testing.assert_frame_equal(loaded.to_frame(), history.to_frame())
    pd.testing.assert_frame_equal(loaded.curves, history.curves)
    assert loaded.onset == history.onset
    assert loaded.holdout_rows == 40
    if full:
        np.testing.assert_array_equal(loaded.margins, history.margins)
    loaded = History.load(path, **options)
    for one in (history, loaded):
        one.epoch(model)
    pd.testing.assert_frame_equal(loaded.to_frame(), history.to_frame())
    assert loaded.num_epochs == 4


def test_saved_rows_of_the_holdout_find_memorisation_later(tmp_path):
    history = planted(False)
    epochs = memorising(history)
    for _ in range(4):
        next(epochs)
    history.save(tmp_path / "history.safetensors")
    loaded = History.load(tmp_path / "history.safetensors", holdout=history.holdout, progress=False)
    assert loaded.onset is None  # two epochs after the best one
    list(memorising(loaded))
    assert loaded.onset == (2, 7)  # epoch 2 is in the file; in epoch 5 the fit starts anew


def test_order_of_the_holdout_is_the_same_in_each_epoch():
    held = TensorDataset(*HELD)
    model, seeded_anew = network(), quiet(holdout=DataLoader(held, 8, shuffle=True))
    assert [seeded_anew.epoch(model).holdout_accuracy for _ in range(2)] == [quiet_accuracy(model)] * 2
    own = quiet(holdout=DataLoader(held, 8, shuffle=True, generator=torch.Generator().manual_seed(0)))
    own.epoch(model)
    with pytest.raises(InputError, match="same order in each epoch"):
        own.epoch(model)


def quiet_accuracy(model):
    history = quiet(holdout=HELD)
    return history.epoch(model).holdout_accuracy


def test_history_without_epochs_is_saved(tmp_path):
    quiet(full=True).save(tmp_path / "empty.safetensors")
    assert History.load(tmp_path / "empty.safetensors").num_epochs == 0


def test_damaged_files_raise(tmp_path):
    history = quiet(holdout=HELD)
    history.epoch(network())
    path = tmp_path / "history.safetensors"
    history.save(path)
    tensors = load_file(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cut short"):
        History.load(path)
    save_file({"labels": Y}, path)
    with pytest.raises(DataError, match="expected a file of kind"):
        History.load(path)
    with pytest.raises(DataError, match="can be read"):
        History.load(tmp_path / "missing")
    with pytest.raises(DataError, match="does not exist"):
        history.save(tmp_path / "missing" / "file")
    for name, value in (("means", torch.zeros(2, N)), ("seen", torch.zeros(N)), ("curves", torch.zeros(3))):
        write(path, {**tensors, name: value})
        with pytest.raises(DataError, match="cannot read"):
            History.load(path)
    write(path, {"curves": torch.zeros(1, 4)})
    with pytest.raises(DataError, match="needs labels"):
        History.load(path)


def write(path, tensors):
    from layerprobe.utils.files import write_tensors

    write_tensors(path, tensors, "training history 1", {"holdout_rows": 40, "reading": ""})


def test_plot_shows_the_curves():
    history = planted(False)
    list(memorising(history))
    figure = history.plot()
    (axes,) = figure.axes
    assert [list(line.get_ydata()) for line in axes.lines] == [
        list(history.train_fit),
        list(history.holdout_accuracy),
    ]
    assert figure.get_suptitle() == "Memorisation since epoch 3, best epoch 2"


def test_audit_takes_the_history_as_early_stopping_baseline():
    x, y = rows(400)
    held = rows(200, seed=9)
    history = quiet(y, holdout=held)
    model = fit(network(), history.update, history.epoch, x=x, y=y)
    own, as_numbers = (
        layerprobe.audit(model, (x, y), policy="noisy_holdout", holdout=held, history=given, controls=False)
        for given in (history, history.holdout_accuracy.tolist())
    )
    pd.testing.assert_frame_equal(own.controls, as_numbers.controls)
    table = own.controls.set_index("control")
    assert table["criterion"]["early stopping"] == history.holdout_accuracy.max()
    with pytest.raises(InputError, match="records it with holdout="):
        layerprobe.audit(model, (x, y), policy="noisy_holdout", holdout=held, history=quiet(y))


def test_full_record_feeds_the_published_detectors():
    history = quiet(full=True)
    fit(network(), history.update, lambda model: history.epoch())
    np.testing.assert_allclose(AUM().score(history.margins, Y), history.aum, rtol=1e-4, atol=1e-6)
    confidence, variability = DataMaps().coordinates(history.probabilities, Y)
    np.testing.assert_allclose(confidence, history.confidence, rtol=1e-5)
    np.testing.assert_allclose(variability, history.variability, rtol=1e-4, atol=1e-7)


class ZeroFirst(nn.Module):
    """The logit z of a binary network as the scores 0 and z of two classes."""

    def forward(self, z):
        return nn.functional.pad(z, (1, 0))


@pytest.mark.parametrize("last", [nn.Identity(), nn.Sigmoid(), nn.Flatten(0)])
def test_one_output_of_a_binary_network_is_recorded_as_two(last):
    y, held = Y % 2, (HELD[0].double(), HELD[1] % 2)
    body = nn.Sequential(*network(torch.float64)[:-1], nn.Linear(16, 1, dtype=torch.float64))
    expected, found = (quiet(y, data=X.double(), holdout=held, layer="2", batch_size=8) for _ in range(2))
    expected.epoch(nn.Sequential(*body, ZeroFirst()))
    found.epoch(nn.Sequential(*body, last))
    assert 0 < expected.train_fit[0] < 1
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), atol=1e-5)
    pd.testing.assert_frame_equal(found.curves, expected.curves)
    with pytest.raises(InputError, match="0 and z"):
        found.update([0], torch.zeros(1, 1))


# Errors -------------------------------------------------------------------------------------------------

INVALID = {
    "labels as names": (lambda: quiet(["a", "b"]), "np.unique"),
    "labels below 0": (lambda: quiet([-1, 0]), "whole numbers from 0"),
    "no labels": (lambda: quiet(np.array([], int)), "whole numbers from 0"),
    "probe": (lambda: quiet(probe="tree"), "tree"),
    "probe rows": (lambda: quiet(probe_rows=0), "probe_rows must be"),
    "used up": (lambda: quiet(holdout=iter([HELD])), "read in every epoch"),
    "index too large": (lambda: quiet().update([N], torch.zeros(1, K)), "positions of rows in 0..59, got 60"),
    "index below 0": (lambda: quiet().update([-1], torch.zeros(1, K)), "got -1..-1"),
    "index as mask": (lambda: quiet().update(torch.ones(2) > 0, torch.zeros(2, K)), "positions of b rows"),
    "other lengths": (lambda: quiet().update([0, 1], torch.zeros(3, K)), "positions of b rows"),
    "one output": (lambda: quiet().update([0], torch.zeros(1, 1)), "at least two classes"),
    "few outputs": (lambda: quiet([0, 5]).update([1], torch.zeros(1, K)), "the label 5 is none of the 3"),
    "no model": (lambda: quiet(holdout=HELD).epoch(), "expected the network"),
    "layer without data": (lambda: quiet(holdout=HELD, layer="2").epoch(network()), "needs data="),
    "several layers": (
        lambda: quiet(holdout=HELD, data=X, layer="*").epoch(network()),
        "expected layer= to match one layer",
    ),
    "holdout without labels": (lambda: quiet(holdout=HELD[0]).epoch(network()), "whole numbers as labels"),
    "holdout labels from 1": (
        lambda: quiet(holdout=(HELD[0], HELD[1] + 1)).epoch(network()),
        r"labels of holdout= in 0..2, .* got 1..3",
    ),
    "fewer rows": (lambda: quiet(data=X[:50]).epoch(network()), "expected data= to have the 60 rows"),
    "more rows": (lambda: quiet(Y[:50], data=X).epoch(network()), "expected data= to have the 50 rows"),
    "other labels": (lambda: quiet(data=(X, Y.flip(0))).epoch(network()), "has the label"),
    "no classifier": (
        lambda: quiet(data=X).epoch(nn.Sequential(nn.Linear(D, 1))),
        "one output for each of K",
    ),
    "no rows by position": (
        lambda: quiet(data=Batches(), holdout=HELD, layer="2").epoch(network()),
        "access to rows by position",
    ),
    "list of batches": (
        lambda: quiet(data=[(X, Y)], holdout=HELD, layer="2").epoch(network()),
        "access to rows by position",
    ),
}


class Batches:
    def __iter__(self):
        yield X, Y


@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_raise(case):
    call, message = INVALID[case]
    with pytest.raises(InputError, match=message):
        call()


def test_network_that_diverges_does_not_stop_the_training():
    model = network()
    history = quiet(data=X, holdout=HELD, layer="2", full=True)
    history.epoch(model)
    with torch.no_grad():
        model[0].weight.fill_(torch.inf)
    ended = history.epoch(model)
    assert np.isnan(ended.probe_accuracy)
    assert np.isnan(history.margins[1]).any()


def test_frames_with_the_same_index_in_different_orders_are_refused():
    x, y = pd.DataFrame({"a": [0.0, 1.0, 2.0]}), pd.Series([0, 1, 1], index=[2, 1, 0])
    for data in (x, (x, y.to_numpy())):
        with pytest.raises(InputError, match="same index in different orders"):
            History(y, data=data, progress=False)
    assert len(History(y.loc[x.index], data=x, progress=False).labels) == 3
