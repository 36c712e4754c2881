"""Which part of a network's output is its head, and which output is which class, in audit() and probe()."""

import re
import warnings
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import TensorDataset

from auditing.planted import clusters, corrupted
from layerprobe import audit, audit_features, probe
from layerprobe.errors import InputError, LayerprobeWarning
from layerprobe.training import Recipe

K, N, HELD = 3, 240, 120
X, TRUE = clusters(N + HELD, K, apart=4.0)
GIVEN = corrupted(TRUE, K, 0.2)
TRAIN, HOLDOUT = (X[:N], GIVEN[:N]), (X[N:], GIVEN[N:])


@dataclass
class Output:
    hidden: torch.Tensor
    logits: torch.Tensor
    loss: torch.Tensor | None = None


Named = namedtuple("Named", "embedding logits")
RESULTS = {
    "dataclass": Output,
    "named tuple": Named,
    "dict with logits": lambda z, o: {"features": z, "logits": o},
    "dict without logits": lambda z, o: {"features": z, "out": o},
    "features, logits": lambda z, o: (z, o),
    "logits, features": lambda z, o: (o, z),
    "loss, logits": lambda z, o: (o.sum(), o),
    "losses, logits": lambda z, o: (o.sum(1), o),
    "object": lambda z, o: SimpleNamespace(hidden=z, logits=o),
}


class Net(nn.Module):
    """Two linear layers; `result` makes the output of their outputs z and o."""

    def __init__(self, outputs=K, hidden=8, result=lambda z, o: o):
        super().__init__()
        self.first, self.last, self.result = nn.Linear(6, hidden), nn.Linear(hidden, outputs), result

    def forward(self, x):
        z = self.first(x).relu()
        return self.result(z, self.last(z))


def trained(outputs=K, y=GIVEN, hidden=8, binary=False, **options):
    torch.manual_seed(0)
    net = Net(outputs, hidden)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        out = net(X[:N])
        if binary:
            loss = nn.functional.binary_cross_entropy_with_logits(out.reshape(-1), y[:N].float())
        else:
            loss = nn.functional.cross_entropy(out, y[:N])
        loss.backward()
        optimizer.step()
    for name, value in options.items():
        setattr(net, name, value)
    return net.eval()


@pytest.fixture(scope="module")
def net():
    return trained()


@torch.no_grad()
def accuracy(predicted, y):
    return float((predicted == y).double().mean())


def head_of(model, train=TRAIN, holdout=HOLDOUT, **options):
    """Return the head's accuracy on the held-out rows by audit(), and the network's by probe()."""
    audited = audit(
        model, train, policy="noisy_holdout", holdout=holdout, controls=False, probes="ncm", **options
    )
    return audited.controls.set_index("control")["criterion"]["head"], audited


def network_of(model, train=TRAIN, test=HOLDOUT, **options):
    table = probe(model, train, test, probes="ncm", **options)
    return table[(table.probe == "network") & (table.split == "test")]["accuracy"].tolist()


@pytest.mark.parametrize("kind", RESULTS)
@pytest.mark.parametrize("hidden", [8, K])
def test_logits_are_found_by_name_or_width(kind, hidden):
    model = trained(hidden=hidden, result=RESULTS[kind])
    with torch.no_grad():
        z = model.first(HOLDOUT[0]).relu()
        expected = accuracy(model.last(z).argmax(1), HOLDOUT[1])
    assert head_of(model)[0] == pytest.approx(expected)
    assert network_of(model) == pytest.approx([expected])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*TRAIN), batch_size=50)
    assert network_of(model, loader) == pytest.approx([expected])
    assert network_of(model, memory=60_000) == pytest.approx([expected])


def test_loss_named_logits_loss_is_no_head(net):
    model = trained(result=lambda z, o: {"logits_loss": o.sum(), "logits": o})
    with torch.no_grad():
        expected = accuracy(net(HOLDOUT[0]).argmax(1), HOLDOUT[1])
    assert network_of(model) == pytest.approx([expected])


def test_embedding_is_no_head(net):
    model = trained(hidden=64, result=lambda z, o: z)
    with pytest.raises(InputError, match=r"no classification head.*\(n, 64\).*class_names="):
        head_of(model)
    assert network_of(model) == []


@pytest.mark.parametrize("outputs", [4, 1000])
def test_outputs_without_rows_are_allowed_and_never_predicted(outputs):
    model = trained(outputs)
    with torch.no_grad():
        expected = accuracy(model(HOLDOUT[0])[:, :K].argmax(1), HOLDOUT[1])
        every = accuracy(model(HOLDOUT[0]).argmax(1), HOLDOUT[1])
    measured, audited = head_of(model)
    assert measured == pytest.approx(expected)
    assert audited.classes.tolist() == list(range(K))
    assert set(audited.predict(X)) <= set(range(K))
    assert network_of(model) == pytest.approx([every])


def test_class_between_others_may_be_absent(tmp_path):
    y = torch.tensor([0, 2, 5])[GIVEN]
    model = trained(7, y)
    train, held = (X[:N], y[:N]), (X[N:], y[N:])
    with torch.no_grad():
        expected = accuracy(model(held[0])[:, [0, 2, 5]].argmax(1), GIVEN[N:])
    measured, audited = head_of(model, train, held)
    assert measured == pytest.approx(expected)
    assert audited.classes.tolist() == [0, 2, 5]
    audited.save(tmp_path / "audit")
    again = type(audited).load(tmp_path / "audit", model)
    np.testing.assert_array_equal(again.predict_scores(X), audited.predict_scores(X))


def test_numbers_are_outputs_where_an_output_has_no_rows(tmp_path):
    names, outputs = np.array([f"class {k}" for k in range(7)]), torch.tensor([0, 2, 5])
    y, true = outputs[GIVEN], outputs[TRUE]
    model = trained(7, y)
    with torch.no_grad():
        p = model(X).softmax(1)
    train, held = (X[:N], y[:N]), (X[N:], y[N:])
    measured, audited = head_of(model, train, held, class_names=names)
    assert measured == pytest.approx(accuracy(p[N:, outputs].argmax(1), GIVEN[N:]))
    by_number, by_name = (audited.retrain(one[:N], max_epochs=1) for one in (true, names[true]))
    assert by_number.accuracy == by_name.accuracy
    table = audited.compare("self_confidence", pred_probs={"all": p[:N]}, true_labels=true[:N])
    own = p[:N].gather(1, y[:N, None]).squeeze(1)
    found = table.set_index("layer")["auroc"]["all"]
    assert found == pytest.approx(roc_auc_score(y[:N] != true[:N], -own))
    with pytest.raises(InputError, match=r"a column for each of the 3 classes .* got 6 columns"):
        audited.compare("self_confidence", pred_probs=p[:N, :6].softmax(1))
    audited.save(tmp_path / "audit")
    again = type(audited).load(tmp_path / "audit")
    assert torch.equal(again.class_set.indices(true.numpy(), "labels"), TRUE)


def test_held_out_classes_of_a_shorter_list_are_found_by_name(net):
    rows = GIVEN[N:] != 1
    x, y = X[N:][rows], GIVEN[N:][rows]
    train, held = TensorDataset(X[:N], GIVEN[:N]), TensorDataset(x, (y > 0).long())
    train.classes, held.classes = ["ant", "bee", "cat"], ["ant", "cat"]
    with torch.no_grad():
        expected = accuracy(net(x).argmax(1), y)
    assert head_of(net, train, held)[0] == pytest.approx(expected)


def test_numbers_of_texts_are_outputs_where_an_output_has_no_rows():
    y = torch.tensor([0, 2, 5])[GIVEN]
    model = trained(7, y)
    with torch.no_grad():
        expected = accuracy(model(X[N:])[:, [0, 2, 5]].argmax(1), GIVEN[N:])
    measured, _ = head_of(model, (X[:N], np.array(list("0123456"))[y[:N]]), (X[N:], y[N:]))
    assert measured == pytest.approx(expected)


def test_retraining_uses_the_outputs_of_the_classes():
    y = torch.tensor([0, 2, 5])[TRUE]
    kind = RESULTS["features, logits"]
    for model in (trained(7, y), trained(7, y, result=kind)):
        audited = head_of(model, (X[:N], y[:N]), (X[N:], y[N:]))[1]
        again = audited.retrain(audited.relabel("all"), fresh=False, max_epochs=1)
        with torch.no_grad():
            z = again.model.first(X[N:]).relu()
            predicted = again.model.last(z)[:, [0, 2, 5]].argmax(1)
        assert accuracy(predicted, TRUE[N:]) > 0.9
        assert again.accuracy.value > 0.9


def test_retraining_of_one_output():
    y = (TRUE > 0).long()
    for squash in (torch.sigmoid, lambda o: o):
        model = trained(1, y, binary=True, result=lambda z, o, squash=squash: squash(o))
        audited = head_of(model, (X[:N], y[:N]), (X[N:], y[N:]))[1]
        again = audited.retrain(audited.relabel("all"), recipe=Recipe("adam", 0.02, 32), patience=None)
        assert again.accuracy.value > 0.9


@pytest.mark.parametrize("shape", ["(n, 1)", "(n,)"])
@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_one_output_is_two_classes(shape, kind):
    y = (GIVEN > 0).long()
    model = trained(1, y, binary=True)
    squash = torch.sigmoid if kind == "probability" else (lambda o: o)
    model.result = lambda z, o: squash(o if shape == "(n, 1)" else o[:, 0])
    train, held = (X[:N], y[:N]), (X[N:], y[N:])
    with torch.no_grad():
        o = model.last(model.first(held[0]).relu())[:, 0]
        expected = accuracy((o > 0).long(), held[1])
    assert head_of(model, train, held)[0] == pytest.approx(expected)
    assert network_of(model, train, held) == pytest.approx([expected])
    assert network_of(model, train, held, memory=60_000) == pytest.approx([expected])


NAMES = np.array(["dog", "cat", "bird"])  # in the order of the outputs; sorted it is another one


def test_order_of_names_that_does_not_fit_is_refused_with_the_right_one(net):
    train, held = (X[:N], NAMES[GIVEN[:N]]), (X[N:], NAMES[GIVEN[N:]])
    with pytest.raises(InputError, match=r"class_names=\['dog', 'cat', 'bird'\]"):
        head_of(net, train, held)
    with torch.no_grad():
        expected = accuracy(net(HOLDOUT[0]).argmax(1), HOLDOUT[1])
    assert head_of(net, train, held, class_names=list(NAMES))[0] == pytest.approx(expected)
    assert network_of(net, train, held, class_names=list(NAMES)) == pytest.approx([expected])
    # the user may insist on an order
    assert head_of(net, train, held, class_names=sorted(NAMES))[0] < expected


def test_order_of_integer_labels_that_does_not_fit():
    y = (GIVEN + 1) % K  # the network was trained on GIVEN
    net, train, held = trained(), (X[:N], y[:N]), (X[N:], y[N:])
    with pytest.raises(InputError, match=r"class_names=\[1, 2, 0\]"):
        head_of(net, train, held)
    with pytest.warns(LayerprobeWarning, match=r"class_names=\[1, 2, 0\]"):
        network_of(net, train, held)
    with torch.no_grad():
        expected = accuracy(net(held[0]).argmax(1), HOLDOUT[1])
    assert head_of(net, train, held, class_names=[1, 2, 0])[0] == pytest.approx(expected)
    assert network_of(net, train, held, class_names=[1, 2, 0]) == pytest.approx([expected])
    with torch.no_grad():
        features = {"fc": X[:N], "output": net(X[:N])}
        other = {"fc": X[N:], "output": net(X[N:])}
    with pytest.raises(InputError, match=r"class_names=\[1, 2, 0\]"):
        audit_features(features, y[:N], policy="noisy_holdout", holdout=(other, y[N:]), probes="ncm")


@pytest.mark.parametrize("text", [False, True])
def test_order_of_more_outputs_than_classes(text):
    torch.manual_seed(0)
    centres = 8 * torch.randn(12, 6)
    y = torch.arange(360) % 12
    x = centres[y] + 0.1 * torch.randn(360, 6)
    model = nn.Sequential(nn.Linear(6, 13), nn.Identity())
    with torch.no_grad():  # output 0 is a background class, output k + 1 is that of label k
        model[0].weight[1:], model[0].bias[1:] = 2 * centres, -centres.square().sum(1)
        model[0].weight[0], model[0].bias[0] = 0, -1e4
    labels = y.numpy().astype(str) if text else y
    train, held = (x[:240], labels[:240]), (x[240:], labels[240:])
    kind = str if text else int
    right = [kind(12), *map(kind, range(12))]
    pattern = rf"with 100% in another order.*class_names={re.escape(repr(right))}"
    with pytest.raises(InputError, match=pattern):
        head_of(model, train, held)
    with pytest.warns(LayerprobeWarning, match=pattern):
        network_of(model, train, held)
    assert head_of(model, train, held, class_names=right)[0] == 1
    assert network_of(model, train, held, class_names=right) == [1]
    with torch.no_grad():
        features, other = ({"fc": part, "output": model(part)} for part in (x[:240], x[240:]))
    with pytest.raises(InputError, match=pattern):
        audit_features(
            features, labels[:240], policy="noisy_holdout", holdout=(other, labels[240:]), probes="ncm"
        )


@pytest.mark.parametrize("key", [int, str])
def test_keys_of_the_configuration_are_whole_numbers(key):
    torch.manual_seed(0)
    names = np.array([f"kind {(7 * k) % 12}" for k in range(12)])
    y = torch.arange(360) % 12
    x = torch.eye(12)[y] + 0.1 * torch.randn(360, 12)
    model = nn.Sequential(nn.Linear(12, 12), nn.Identity())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(12)), model[0].bias.zero_()
    model.config = SimpleNamespace(id2label={key(k): name for k, name in enumerate(names.tolist())})
    train, held = (x[:240], names[y[:240]]), (x[240:], names[y[240:]])
    measured, audited = head_of(model, train, held)
    assert measured == 1
    assert audited.classes.tolist() == names.tolist()
    assert network_of(model, train, held) == [1]


def test_names_of_the_configuration_give_the_order(net):
    model = trained(config=SimpleNamespace(id2label=dict(enumerate(NAMES.tolist()))))
    train, held = (X[:N], NAMES[GIVEN[:N]]), (X[N:], NAMES[GIVEN[N:]])
    with torch.no_grad():
        expected = accuracy(net(HOLDOUT[0]).argmax(1), HOLDOUT[1])
    measured, audited = head_of(model, train, held)
    assert measured == pytest.approx(expected)
    assert audited.classes.tolist() == NAMES.tolist()
    assert network_of(model, train, held) == pytest.approx([expected])
    default = trained(config=SimpleNamespace(id2label={k: f"LABEL_{k}" for k in range(K)}))
    assert head_of(default)[0] == pytest.approx(expected)


def test_right_and_untrained_networks_do_not_warn(net):
    torch.manual_seed(1)
    with warnings.catch_warnings(action="error", category=LayerprobeWarning):
        network_of(net)
        for _ in range(10):
            x, y = clusters(400, 10, 12, apart=4.0)
            network_of(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 10)), (x, y), (x, y))
