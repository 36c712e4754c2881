"""Audit of a network that has memorised wrong labels."""

import copy

import numpy as np
import pytest
import torch
from markupsafe import escape
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import layerprobe
from layerprobe import audit
from layerprobe.data import noise
from layerprobe.errors import InputError, LayerprobeError
from layerprobe.networks import MLP
from layerprobe.training import seeded

PROBES = ("ridge", "velpic")


@pytest.fixture(scope="module")
def run(memorised, digits):
    """Audit quickly: two probes, no untrained copy."""

    def run(model=memorised, data=(digits.x, digits.given), **options):
        defaults = {"policy": "noisy_holdout", "holdout": digits.holdout, "probes": PROBES, "controls": False}
        return audit(model, data, **(defaults | options))

    return run


@pytest.fixture(scope="module")
def plain(run):
    return run()


def estimated_precision(found):
    """Return the precision by the label scores alone, also where the audit calls it unknown."""
    return 1 - found.issues["label_score"][found.issue_mask()].mean()


def nudge(x):
    """Move the digits by one pixel: two are too many for 8 x 8."""
    return x.roll(1, 3)


def same(other, one):
    assert (other.issue_mask() == one.issue_mask()).all()
    assert other.issues["suggested_label"].tolist() == one.issues["suggested_label"].tolist()
    assert np.abs(other.issues["label_score"] - one.issues["label_score"]).max() < 0.01
    assert other.layers["layer"][0] == one.layers["layer"][0]


def test_decoder_beats_the_head(memorised, digits, audited):
    x, y = digits.test
    assert (memorised(digits.x).argmax(1) == digits.given).double().mean() > 0.95  # by heart
    head = float((memorised(x).argmax(1) == y).double().mean())
    assert (audited.predict(x) == y.numpy()).mean() > head + 0.1
    assert audited.layers["gain_low"][0] > 0
    held, labels = digits.holdout
    table = audited.controls.set_index("control")
    assert table["criterion"]["head"] == pytest.approx(
        float((memorised(held).argmax(1) == labels).double().mean())
    )
    assert list(table.index) == [
        "head",
        "raw input",
        "most frequent label",
        "untrained copy",
        "early stopping",
        "decoder",
    ]
    assert table["criterion"]["early stopping"] == 0.35


def test_new_rows_need_no_labels(digits, audited):
    x, y = digits.test
    expected = audited.predict(x).tolist()
    loader = DataLoader(TensorDataset(x), batch_size=7)
    for rows in ((x,), TensorDataset(x), loader, [x[:5], x[5:]], (x, torch.full_like(y, -100)), x.tolist()):
        assert audited.predict(rows).tolist() == expected


def test_wrong_labels_are_flagged(digits, audited):
    wrong = (digits.given != digits.true).numpy()
    assert roc_auc_score(wrong, 1 - audited.issues["label_score"]) > 0.95
    assert wrong[audited.issue_mask()].mean() == pytest.approx(estimated_precision(audited), abs=0.06)
    assert audited.noise.low <= wrong.mean() <= audited.noise.high
    suggested = audited.issues["suggested_label"][audited.issue_mask()]
    assert (suggested == digits.true.numpy()[audited.issue_mask()]).mean() > 0.85
    best = audited.issues["index"][audited.issues["label_score"].idxmin()]
    assert wrong[best]
    assert audited.example(0).shape == (8, 8)


def test_repair_reduces_the_wrong_labels(digits, audited):
    repaired = audited.relabel("confident")
    right = (repaired.labels == digits.true.numpy()).mean()
    assert right > 0.85 > (digits.given == digits.true).double().mean()


def test_edit_head_fits_the_given_labels(memorised, digits, audited):
    x, y = digits.test
    edited = audited.edit_head()
    head = float((memorised(x).argmax(1) == y).double().mean())
    assert (edited(x).argmax(1) == y).double().mean() > head
    assert torch.equal(edited.linear1.weight, memorised.linear1.weight)


def test_model_data_and_random_state_do_not_change(digits, memorised, run):
    model = copy.deepcopy(memorised).train()
    model.fc1.eval()
    handle = model.fc2.register_forward_hook(lambda *_: None)
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    x, given = digits.x.clone(), digits.given.clone()
    state, gradients = torch.get_rng_state(), torch.is_grad_enabled()
    found = run(model, (x, given), views=[nudge], controls=True)
    found.predict(digits.test[0])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
    assert hooks == [model.fc2]
    assert list(model.fc2._forward_hooks) == [handle.id]
    assert torch.equal(x, digits.x)
    assert torch.equal(given, digits.given)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() == gradients
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_model_is_restored_after_an_error_in_forward(digits, run):
    class Fails(MLP):
        def forward(self, x):
            if len(x) > 2:
                raise RuntimeError("out of order")
            return super().forward(x)

    model = Fails(64, (5,)).train()
    with pytest.raises(RuntimeError, match="out of order"), pytest.warns(match="cannot be run with 3 rows"):
        run(model)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_batch_size_does_not_change_the_result(digits, run, plain):
    same(run(batch_size=37), plain)
    loader = DataLoader(TensorDataset(digits.x, digits.given), batch_size=50)
    same(run(data=loader, batch_size=1000), plain)


def test_loader_workers_and_order_do_not_change_the_result(digits, run, plain):
    data = TensorDataset(digits.x, digits.given, torch.arange(600))
    generator = torch.Generator().manual_seed(3)
    shuffled = run(
        data=DataLoader(data, batch_size=100, shuffle=True, generator=generator, num_workers=1),
        layers=["fc*", "input"],
    )
    same(shuffled, run(layers=["fc*", "input"]))
    assert shuffled.issues["index"].tolist() == list(range(600))


def test_row_order_does_not_change_the_result(digits, run, plain):
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    shuffled = run(data=(digits.x[order], digits.given[order]))
    assert (shuffled.issue_mask() == plain.issue_mask()[order]).all()
    expected = plain.issues["label_score"].to_numpy()[order]
    assert np.abs(shuffled.issues["label_score"] - expected).max() < 0.01
    assert shuffled.pred_probs == pytest.approx(plain.pred_probs[order], abs=0.01)
    held, held_given = digits.holdout
    rows = torch.randperm(len(held), generator=torch.Generator().manual_seed(1))
    other = run(holdout=(held[rows], held_given[rows]))
    assert (other.issue_mask() == plain.issue_mask()).all()
    assert (other.noise.low, other.noise.high) == pytest.approx((plain.noise.low, plain.noise.high))


def test_duplicate_rows_share_a_fold(digits, run):
    x, given = torch.cat([digits.x, digits.x[:5]]), torch.cat([digits.given, digits.given[:5]])
    found = run(data=(x, given), probes=["velpic", "ncm"])  # out-of-fold probes
    scores = found.issues["label_score"].to_numpy()
    assert scores[:5] == pytest.approx(scores[600:], abs=1e-6)


def test_class_names_do_not_change_the_result(memorised, digits, run, plain):
    names = np.array([f"class {chr(116 - k)}" for k in range(10)])  # sorted the other way round
    held, held_given = digits.holdout
    named = run(
        data=(digits.x, names[digits.given].tolist()),
        holdout=(held, names[held_given].tolist()),
        class_names=names,
    )
    assert (named.issue_mask() == plain.issue_mask()).all()
    assert (named.issues["suggested_label"] == names[plain.issues["suggested_label"]]).all()
    assert named.predict(digits.test[0]).tolist() == names[plain.predict(digits.test[0])].tolist()
    by_position = run(class_names=names.tolist())
    assert by_position.issues.equals(named.issues)


def test_permuted_outputs_give_the_same_flags(memorised, digits, run, plain):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))  # new class k is old order[k]
    code = order.argsort()
    model = copy.deepcopy(memorised)
    model.head.weight.data, model.head.bias.data = memorised.head.weight[order], memorised.head.bias[order]
    held, held_given = digits.holdout
    other = run(model.requires_grad_(False), (digits.x, code[digits.given]), holdout=(held, code[held_given]))
    assert (other.issue_mask() == plain.issue_mask()).all()
    assert (order.numpy()[other.issues["suggested_label"]] == plain.issues["suggested_label"]).all()
    assert other.controls["criterion"].tolist() == pytest.approx(plain.controls["criterion"].tolist())


def test_names_without_class_names_are_the_outputs_in_sorted_order(digits, run, plain):
    letters = np.array(list("abcdefghij"))
    held, held_given = digits.holdout
    named = run(data=(digits.x, letters[digits.given]), holdout=(held, letters[held_given]))
    assert named.classes.tolist() == letters.tolist()
    assert (named.issue_mask() == plain.issue_mask()).all()


def test_class_names_of_the_dataset_are_used(digits, run, plain):
    data = TensorDataset(digits.x, digits.given)
    data.classes = list("abcdefghij")
    named = run(data=data)
    assert named.classes.tolist() == data.classes
    assert (named.issues["given_label"] == np.array(data.classes)[plain.issues["given_label"]]).all()


def test_two_classes(digits, train, run):
    pair, held_pair = digits.true < 2, digits.test[1] < 2
    x, true = digits.x[pair], digits.true[pair]
    flips = torch.rand(len(x), generator=torch.Generator().manual_seed(0)) < 0.25
    given = torch.where(flips, 1 - true, true)
    torch.manual_seed(0)
    model = train(MLP(64, (16,), 2), x, given, steps=100)
    found = run(
        model, (x, given), policy="trusted", holdout=None, trusted=tuple(t[held_pair] for t in digits.test)
    )
    assert found.pred_probs.shape == (len(x), 2)
    assert (flips.numpy()[found.issue_mask()]).mean() > 0.9
    assert found.issue_mask().sum() > 0.6 * flips.sum()
    assert set(found.predict(x)) == {0, 1}


@pytest.mark.parametrize("policy", ["trusted", "test_split"])
def test_policies_with_clean_labels(digits, run, policy):
    found = run(policy=policy, holdout=None, **{policy.removesuffix("_split"): digits.test})
    wrong = (digits.given != digits.true).numpy()
    assert found.controls["criterion"].iloc[-1] > 0.75
    assert roc_auc_score(wrong, 1 - found.issues["label_score"]) > 0.95
    assert found.noise.rate == pytest.approx(wrong.mean(), abs=0.05)
    assert "raw input" in found.noise.source
    assert wrong[found.issue_mask()].mean() == pytest.approx(estimated_precision(found), abs=0.06)


def test_policy_unseen_views(memorised, digits, run):
    found = run(policy="unseen_views", holdout=None, views={"right": nudge, "left": lambda x: x.roll(-1, 3)})
    assert found.policy == "unseen_views"
    head = [
        (memorised(x).argmax(1) == digits.given).double() for x in (nudge(digits.x), digits.x.roll(-1, 3))
    ]
    table = found.controls.set_index("control")
    plain = float(sum(head).mean()) / 2
    assert plain - 0.05 < table["criterion"]["head"] < plain  # what it remembers is taken out
    assert found.settings["views"] == ["right", "left"]
    assert table["beaten"]["head, averaged over views"] is None
    wrong = (digits.given != digits.true).numpy()
    assert found.noise.rate == pytest.approx(wrong.mean(), abs=0.05)


def test_expected_precision_by_views_is_right_on_average(digits, train, run):
    """One draw of the labels determines the noise estimate, whose error shifts the expected precision."""
    errors = []
    for seed in range(4):
        given = torch.from_numpy(noise.uniform(digits.true, 0.44, 10, seed=seed).labels.copy())
        with seeded(seed):
            model = MLP(64, (96, 48))
        train(model, digits.x, given, steps=900, seed=seed)
        views = {"right": nudge, "left": lambda x: x.roll(-1, 3)}
        found = run(model, (digits.x, given), policy="unseen_views", holdout=None, views=views)
        precision = (given != digits.true).numpy()[found.issue_mask()].mean()
        errors.append(precision - estimated_precision(found))
    assert -0.05 < np.mean(errors) < 0.1


def test_predictions_are_averaged_over_views(digits, run):
    found = run(views=[nudge, "flip"], layers=["fc2"], probes=["ridge"])
    x = digits.test[0]
    seen = [x, nudge(x), x.flip(-1)]
    outputs = [layerprobe.capture(found.reader.model, each, ["fc2"]).outputs["fc2"] for each in seen]
    expected = found.findings.ensemble.scores({"fc2": sum(outputs) / 3}).numpy()
    assert found.predict_scores(x) == pytest.approx(expected, abs=1e-4)


def test_prediction_takes_inputs_with_and_without_labels(digits, plain):
    x, y = digits.test
    expected = plain.predict(x)
    assert (plain.predict(x.numpy()) == expected).all()
    assert (plain.predict((x, y)) == expected).all()
    assert (plain.predict(DataLoader(TensorDataset(x, y), batch_size=64)) == expected).all()
    assert plain.predict(x[:1]).tolist() == expected[:1].tolist()
    assert plain.predict_proba(x).sum(1) == pytest.approx(np.ones(len(x)))
    assert (plain.predict_proba(x).argmax(1) == expected).all()


def test_rows_of_another_shape_are_refused(digits, plain):
    with pytest.raises(InputError, match=r"expected x \(1, 8, 8\) as in training, got x"):
        plain.predict(digits.test[0][..., :7])


def test_audit_is_deterministic(run, plain):
    assert run().issues.equals(plain.issues)


def test_notebook_shows_findings_advice_and_evidence(plain):
    html = plain._repr_html_()
    for text in (plain.label_finding, plain.network_finding, f"Advice: {plain.advice}.", plain.why):
        assert str(escape(text)) in html
    accuracy = plain.evidence.set_index("quantity").loc["accuracy of the decoder", "value"]
    assert f">{100 * accuracy:.1f}\N{NO-BREAK SPACE}%</td>" in html
    assert html.count("<tr>") == 1 + len(plain.evidence)


def test_progress_reports_each_step(run):
    steps = []
    found = run(progress=steps.append)
    assert list(dict.fromkeys(steps)) == list(found.cost)
    assert found.settings["layers"] == {"input": 64, "fc1": 96, "fc2": 48}
    assert found.settings["probes"] == list(PROBES)
    assert found.finding in repr(found)


class Tokens(nn.Module):
    """A network that answers every position of its input."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.ReLU(), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.layer(x))


BAD = {
    "label out of range": (lambda d: {"data": (d.x, d.given + 1)}, "labels hold 10, which is none of the 10"),
    "negative label": (lambda d: {"data": (d.x, d.given - 1)}, "labels hold -1"),
    "labels of another length": (lambda d: {"data": d.x, "labels": d.given[1:]}, "expected 600 labels"),
    "held label out of range": (
        lambda d: {"holdout": (d.holdout[0], d.holdout[1] + 1)},
        "labels of holdout= hold 10",
    ),
    "a class of one row": (
        lambda d: {"data": (d.x, torch.where(d.given == 3, 4, d.given).index_fill(0, torch.tensor([0]), 3))},
        "two rows of every class, got 1 of 3",
    ),
    "one class": (lambda d: {"data": (d.x, 0 * d.given)}, "two classes, but all 600 labels are 0"),
    "only zeros": (lambda d: {"data": (0 * d.x, d.given)}, "all 600 rows have the same content"),
    "NaN": (
        lambda d: {"data": (d.x.index_fill(0, torch.tensor([7]), torch.nan), d.given)},
        "NaN, first in row 7",
    ),
    "infinity": (
        lambda d: {"data": (d.x.index_fill(0, torch.tensor([7]), torch.inf), d.given)},
        "NaN for 1 of 600 rows",
    ),
    "no head": (lambda d: {"model": Tokens()}, "no classification head"),
    "an embedding": (lambda d: {"model": nn.Sequential(nn.Flatten(), nn.ReLU())}, "as an embedding does"),
    "a loader that shuffles": (
        lambda d: {"data": DataLoader(TensorDataset(d.x, d.given), shuffle=True)},
        "may shuffle and gives no indices",
    ),
    "an iterator": (lambda d: {"data": iter([(d.x, d.given)])}, "more than once"),
    "a view of another shape": (
        lambda d: {"views": {"crop": lambda x: x[..., 1:]}},
        "'crop' must keep shape",
    ),
    "a view of other inputs": (
        lambda d: {"data": (d.x.flatten(1), d.given), "views": "flip"},
        "'flip' is for images",
    ),
    "a view that does not exist": (lambda d: {"views": "turn"}, "expected views of flip"),
    "overlap": (
        lambda d: {"holdout": (torch.cat([d.x[:3], d.holdout[0]]), torch.cat([d.given[:3], d.holdout[1]]))},
        "3 of the 403 rows of holdout= are among the training rows",
    ),
    "in_sample": (lambda d: {"policy": "in_sample"}, "already contain its label"),
    "loo": (lambda d: {"policy": "loo"}, "already contain its label"),
    "cross_validation": (lambda d: {"policy": "cross_validation"}, "already contain its label"),
    "no such policy": (lambda d: {"policy": "best"}, "name of a selection policy"),
    "no hold-out": (lambda d: {"holdout": None}, "pass holdout="),
    "no views": (lambda d: {"holdout": None, "policy": "unseen_views"}, "which keep the label"),
    "two sets of rows": (lambda d: {"test": d.test}, "does not use test="),
    "no such probe": (lambda d: {"probes": ["best"]}, "best"),
    "no such layer": (lambda d: {"layers": ["fc9"]}, "no layer matches 'fc9'"),
    "names of other outputs": (lambda d: {"class_names": ["a", "b"]}, "2 names for 10 outputs"),
    "history in per cent": (lambda d: {"history": [61.0]}, "history="),
    "batches of nothing": (lambda d: {"batch_size": 0}, "batch_size"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(case, digits, run):
    options, message = BAD[case]
    with pytest.raises(LayerprobeError, match=message) as caught:
        run(**options(digits))
    assert isinstance(caught.value, InputError | layerprobe.errors.LayerError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("what", "policy"), [("trusted", "trusted"), ("test", "test_split")])
def test_held_out_rows_among_the_training_rows_are_refused(digits, run, what, policy):
    with pytest.raises(InputError, match=f"5 of the 5 rows of {what}="):
        run(policy=policy, holdout=None, **{what: (digits.x[:5], digits.true[:5])})


def test_public_names():
    assert layerprobe.audit is audit
    assert {"audit", "audit_features", "Audit"} <= set(layerprobe.__all__)


def test_view_without_effect_is_refused(memorised, digits):
    with pytest.raises(InputError, match="does not change any layer"):
        audit(memorised, (digits.x, digits.given), policy="unseen_views", views={"same": lambda x: x.clone()})


def test_class_names_in_the_wrong_order_are_suspected(memorised, digits):
    names = [f"class {k}" for k in range(10)]
    x, y = (digits.x, digits.given)
    held, labels = digits.holdout
    found = audit(
        memorised,
        (x, np.array(names)[y.numpy()]),
        policy="noisy_holdout",
        holdout=(held, np.array(names)[labels.numpy()]),
        class_names=names[::-1],
    )
    assert found.network_finding.endswith("class_names are in the order of its outputs.")


def test_floating_point_labels_are_refused(memorised, digits):
    x, y = (digits.x, digits.given)
    with pytest.raises(InputError, match="integers or names"):
        audit(memorised, x, y + 0.5, policy="noisy_holdout", holdout=digits.holdout)


def test_old_name_of_the_findings_warns(audited):
    with pytest.warns(DeprecationWarning, match="use Audit.findings"):
        assert audited.decided is audited.findings
