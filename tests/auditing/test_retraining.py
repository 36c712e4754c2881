import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from layerprobe import audit
from layerprobe.auditing.dataset.labelled import dummy_input, read_rows
from layerprobe.auditing.findings import repaired_labels
from layerprobe.auditing.retraining import InputStore
from layerprobe.errors import InputError
from layerprobe.networks import MLP
from layerprobe.probes import Ridge
from layerprobe.training import Recipe, seeded, train

generator = torch.Generator().manual_seed(0)
CENTRES = 2 * torch.randn(3, 6, generator=generator)
TRUE = torch.arange(300) % 3
X = CENTRES[TRUE] + torch.randn(300, 6, generator=generator)
NOISY = torch.where(torch.rand(300, generator=generator) < 0.4, (TRUE + 1) % 3, TRUE)
TRAIN, HELD, TEST = slice(0, 150), slice(150, 200), slice(200, 300)
QUICK = {"probes": ["ridge"], "controls": False}
FAST = Recipe("adam", 1e-2, 16)


def memorised(model):
    train(model, X[TRAIN], NOISY[TRAIN], Recipe("adam", 1e-2, 32, max_epochs=60), order_seed=0)
    return model


@pytest.fixture(scope="module")
def trained():
    with seeded(1):
        return memorised(MLP(6, hidden=(32, 16), num_classes=3))


@pytest.fixture(scope="module")
def held_out(trained):
    return audit(
        trained, (X[TRAIN], NOISY[TRAIN]), policy="noisy_holdout", holdout=(X[HELD], NOISY[HELD]), **QUICK
    )


@pytest.fixture(scope="module")
def by_views(trained):
    views = {"nearer": lambda x: x * 0.9}
    return audit(trained, (X[TRAIN], NOISY[TRAIN]), policy="unseen_views", views=views, **QUICK)


def truth(n=150):
    """Labels that are all right, as a repair of the first rows would have them."""
    return repair(TRUE[:n], NOISY[:n])


def repair(labels, given):
    p = torch.nn.functional.one_hot(labels, 3).double()
    return repaired_labels("all", labels, torch.zeros_like(given, dtype=torch.bool), given, p, np.arange(3))


def right(model):
    return float((model(X[TEST]).argmax(1) == TRUE[TEST]).double().mean())


def weights(model):
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("fresh", [True, False])
def test_retraining_on_true_labels_improves_the_network(held_out, trained, fresh):
    before, flags = weights(trained), [module.training for module in trained.modules()]
    repaired = held_out.retrain(truth(), fresh=fresh, recipe=FAST, max_epochs=15)
    assert right(repaired.model) > right(trained) + 0.1
    assert torch.equal(weights(trained), before)
    assert [module.training for module in trained.modules()] == flags
    assert not any(module.training for module in repaired.model.modules())


def test_soft_labels_are_the_default(held_out):
    chosen, default = (
        held_out.retrain(*labels, recipe=FAST, max_epochs=2) for labels in [[held_out.relabel("soft")], []]
    )
    assert torch.equal(weights(chosen.model), weights(default.model))
    hard = held_out.retrain(held_out.relabel("all"), recipe=FAST, max_epochs=2)
    assert not torch.equal(weights(hard.model), weights(default.model))


def test_history_has_every_epoch_and_the_best_is_restored(held_out):
    seen = []
    repaired = held_out.retrain(truth(), recipe=FAST, max_epochs=12, patience=2, on_epoch=seen.append)
    history = repaired.history
    assert history.columns.tolist() == ["epoch", "loss", "accuracy"]
    assert history["epoch"].tolist() == list(range(len(seen) + 1))
    assert math.isnan(history["loss"][0])
    assert history["loss"][1:].tolist() == [epoch.loss for epoch in seen]
    assert repaired.best_epoch == history["accuracy"].idxmax()
    on_held = (repaired.model(X[HELD]).argmax(1) == NOISY[HELD]).double().mean()
    assert history["accuracy"].max() == on_held == repaired.accuracy.value
    assert len(seen) in (repaired.best_epoch + 2, 12)
    assert repaired.judged_by == "50 rows of the policy 'noisy_holdout', by their own labels"
    chosen = rf"epoch {repaired.best_epoch} of {len(repaired.history) - 1}, chosen by 50 rows of the policy"
    assert re.match(rf"RetrainedNetwork: accuracy \d+\.\d% \(.+\), {chosen}", repr(repaired))


def test_no_patience_trains_to_the_end(held_out):
    repaired = held_out.retrain(truth(), recipe=FAST, max_epochs=7, patience=None)
    assert len(repaired.history) == 8


@pytest.mark.parametrize("fresh", [True, False])
def test_retraining_is_deterministic(held_out, fresh):
    def once(seed):
        torch.rand(3)  # the global generator does not matter
        return held_out.retrain(truth(), fresh=fresh, recipe=FAST, max_epochs=3, seed=seed)

    one, again, other = once(5), once(5), once(6)
    assert torch.equal(weights(one.model), weights(again.model))
    assert one.history.equals(again.history)
    assert not torch.equal(weights(one.model), weights(other.model))


def test_network_that_does_not_improve_keeps_its_weights(held_out, trained):
    good = memorised_truth()
    rows = replace(held_out.reader, model=good)
    worse = repair((TRUE[TRAIN] + 2) % 3, NOISY[TRAIN])
    repaired = replace(held_out, reader=rows).retrain(worse, fresh=False, recipe=FAST, max_epochs=6)
    assert repaired.best_epoch == 0
    assert torch.equal(weights(repaired.model), weights(good))


def memorised_truth():
    with seeded(2):
        model = MLP(6, hidden=(16,), num_classes=3)
    train(model, X[TRAIN], TRUE[TRAIN], Recipe("adam", 1e-2, 32, max_epochs=10), order_seed=0)
    return model


def test_unseen_views_validates_on_a_tenth_of_the_rows(by_views):
    labels = truth()
    repaired = by_views.retrain(labels, recipe=FAST, max_epochs=10)
    assert repaired.judged_by == "15 training rows, left out of training, by their repaired labels"
    prints = by_views.rows.fingerprints()
    judges = prints <= np.sort(prints)[14]
    of_judges = repaired.model(X[TRAIN][judges]).argmax(1) == TRUE[TRAIN][judges]
    assert repaired.accuracy.value == of_judges.double().mean() == repaired.history["accuracy"].max()
    # Whatever these rows are told to be, it is not learnt.
    other = replace(labels, targets=np.where(judges[:, None], np.roll(labels.targets, 1, 1), labels.targets))
    told = by_views.retrain(other, recipe=FAST, max_epochs=1)
    assert told.history["loss"][1] == repaired.history["loss"][1]


def test_initial_network_does_not_count_for_unseen_views(by_views):
    repaired = by_views.retrain(truth(), fresh=False, recipe=Recipe("sgd", 1e-12, 16), max_epochs=2)
    assert repaired.best_epoch == 1


def test_test_split_validates_on_a_fifth_and_measures_the_rest(trained):
    found = audit(trained, (X[TRAIN], NOISY[TRAIN]), policy="test_split", test=(X[TEST], TRUE[TEST]), **QUICK)
    repaired = found.retrain(truth(), recipe=FAST, max_epochs=4)
    chooses = int(repaired.judged_by.split()[0])
    assert 19 <= chooses <= 21
    total = chooses * repaired.history["accuracy"].max() + (100 - chooses) * repaired.accuracy.value
    assert total == pytest.approx(100 * right(repaired.model))


def test_rows_that_are_pruned_are_not_trained_on(held_out):
    labels = truth()
    kept = np.arange(150) < 100
    wild = replace(labels, kept=kept, targets=np.where(kept[:, None], labels.targets, 1 / 3))
    one, other = (
        held_out.retrain(each, recipe=FAST, max_epochs=2) for each in (wild, replace(labels, kept=kept))
    )
    assert torch.equal(weights(one.model), weights(other.model))


def test_no_row_is_left_over_for_batch_normalisation(held_out):
    with seeded(0):
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    normalised = replace(held_out, reader=replace(held_out.reader, model=model))
    labels = replace(truth(), kept=np.arange(150) < 129)
    repaired = normalised.retrain(labels, max_epochs=1)  # 128 rows and one more
    assert math.isfinite(repaired.history["loss"][1])


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, left, right, scale):
        return {"logits": self.net(scale * torch.cat([left, right], 1)), "other": left}


def test_dicts_in_indexed_batches_are_trained_on(trained):
    order = torch.randperm(150, generator=torch.Generator().manual_seed(3))
    batches = [
        {
            "left": X[rows, :3].double().numpy(),
            "right": X[rows, 3:],
            "scale": torch.tensor(1.0),
            "labels": NOISY[rows],
            "index": rows,
        }
        for rows in order.split(40)
    ]
    held = [{"left": X[HELD, :3], "right": X[HELD, 3:], "scale": torch.tensor(1.0), "labels": NOISY[HELD]}]
    with seeded(0):
        model = TwoInputs()
    found = audit(model, batches, policy="noisy_holdout", holdout=held, **QUICK)
    repaired = found.retrain(truth(), recipe=FAST, max_epochs=10)
    logits = repaired.model(X[TEST, :3], X[TEST, 3:], torch.tensor(1.0))["logits"]
    assert (logits.argmax(1) == TRUE[TEST]).double().mean() > 0.9


def with_other_columns(rows, weight=1.0):
    inputs = {"left": X[rows, :3], "right": X[rows, 3:], "scale": torch.tensor(1.0)}
    names = [f"row {i}" for i in range(300)[rows]]
    return {**inputs, "weight": torch.full([len(names)], weight), "name": names}


@pytest.mark.parametrize("inputs", [None, lambda batch: batch])
def test_columns_that_forward_does_not_take_are_left_out(inputs):
    training, held = ({**with_other_columns(rows), "labels": NOISY[rows]} for rows in (TRAIN, HELD))
    with seeded(0):
        model = TwoInputs()
    found = audit(model, training, policy="noisy_holdout", holdout=held, inputs=inputs, **QUICK)
    repaired = found.retrain(truth(), recipe=FAST, max_epochs=1).model
    edited = found.edit_head("ridge")
    for network in (repaired, edited):
        assert len(network(X[TEST, :3], X[TEST, 3:], torch.tensor(1.0))["logits"]) == len(X[TEST])
    if inputs is None:  # they are not part of the content of a row
        one, other = (read_rows(with_other_columns(TRAIN, w), ..., model=model) for w in (1.0, 2.0))
        assert np.array_equal(one.fingerprints(), other.fingerprints())


@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_are_padded_to_the_longest_of_all_batches(side):
    def padded(rows):
        longest = max(map(len, rows))
        pads = [[0] * (longest - len(row)) for row in rows]
        lined = [[*p, *r] if side == "left" else [*r, *p] for r, p in zip(rows, pads, strict=True)]
        ids = torch.tensor(lined)
        return {
            "input_ids": ids,
            "attention_mask": (ids != 0).long(),
            "pairs": ids[:, :, None].repeat(1, 1, 2),
        }

    texts = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 9, 9], [1, 1]]
    batches = [
        ({**padded(texts[:3])}, torch.tensor([0, 1, 0])),
        ({**padded(texts[3:])}, torch.tensor([1, 0])),
    ]
    gathered = InputStore(read_rows(batches))
    expected = padded(texts)
    rows = torch.tensor([4, 0, 1])
    for name, values in gathered.take(rows).items():
        assert torch.equal(values, expected[name][rows]), name


def test_rows_of_different_shapes_without_a_mask_are_refused():
    batches = [(torch.ones(2, 5), torch.tensor([0, 1])), (torch.ones(2, 6), torch.tensor([0, 1]))]
    with pytest.raises(InputError, match=r"\(5,\), \(6,\) in different batches, and no attention_mask"):
        InputStore(read_rows(batches))


def test_inputs_are_moved_to_device_and_dtype():
    gathered = InputStore(read_rows(torch.arange(6).view(3, 2).double(), [0, 1, 1]))
    taken = gathered.take(torch.tensor([2, 0]), torch.device("meta"), torch.float32)
    assert (taken.device.type, taken.dtype, taken.shape) == ("meta", torch.float32, (2, 2))
    assert gathered.take(torch.tensor([2, 0])).tolist() == [[4, 5], [0, 1]]


def test_dummy_input_has_the_form_of_the_data():
    inputs = {"x": torch.rand(5, 3), "flag": True, "pair": (torch.arange(5), torch.rand(4))}
    empty = dummy_input(inputs, 5)
    assert empty["x"].shape == (2, 3)
    assert empty["x"].untyped_storage().nbytes() == 4
    assert [part.tolist() for part in empty["pair"]] == [[1, 1], [1, 1, 1, 1]]
    assert empty["flag"] is True


def test_any_labels_can_be_trained_on(held_out):
    labels = held_out.relabel("all").labels
    mine, same = (held_out.retrain(y, max_epochs=1) for y in (labels, held_out.relabel("all")))
    assert torch.equal(weights(mine.model), weights(same.model))
    with pytest.raises(InputError, match="one label per row"):
        held_out.retrain(labels[:-1])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (truth(149), {}, r"the 150 rows and 3 classes of the audit, got .* \(149, 3\)"),
        (replace(truth(), kept=np.arange(150) < 1), {}, "at least two rows to train on .* got 1 and 50"),
        (truth(), {"max_epochs": 0}, "max_epochs must be a whole number of at least 1"),
        (truth(), {"patience": 0}, "patience must be a whole number of at least 1"),
        (truth(), {"seed": -1}, "seed must be"),
        (truth(), {"recipe": Recipe("sgd", 1e30, 16)}, "loss of the first epoch is (nan|inf): lower"),
    ],
)
def test_invalid_arguments_are_refused(held_out, labels, options, message):
    with pytest.raises(InputError, match=message):
        held_out.retrain(labels, **options)


def test_a_frozen_network_is_refused(held_out, trained):
    with seeded(0):
        frozen = MLP(6, hidden=(4,), num_classes=3).requires_grad_(False)
    found = replace(held_out, reader=replace(held_out.reader, model=frozen))
    with pytest.raises(InputError, match="no parameter of the network can be trained"):
        found.retrain(truth())


def test_retraining_under_no_grad(held_out):
    with torch.inference_mode():
        inside = held_out.retrain(truth(), recipe=FAST, max_epochs=2)
    outside = held_out.retrain(truth(), recipe=FAST, max_epochs=2)
    assert torch.equal(weights(inside.model), weights(outside.model))


@pytest.mark.parametrize("probe", ["ridge", Ridge(0.03), "velpic", "ncm", "shrinkage_lda"])
def test_an_edited_head_predicts_as_the_probe(held_out, trained, probe):
    from layerprobe import capture
    from layerprobe.editing import linear_probe

    edited = held_out.edit_head(probe)
    hidden = [capture(trained, X[rows], "fc2").outputs["fc2"] for rows in (TRAIN, TEST)]
    fitted = linear_probe(probe).fit(hidden[0], NOISY[TRAIN])
    assert torch.equal(edited(X[TEST]).argmax(1), fitted.predict(hidden[1]))
    assert not torch.equal(edited(X[TEST]), trained(X[TEST]))


def test_the_head_of_named_classes_and_dicts_is_edited(trained):
    names = np.array(["c", "a", "b"])
    batches = [
        {"x": X[rows], "labels": names[NOISY[rows]], "index": rows}
        for rows in torch.arange(150).flip(0).split(64)
    ]

    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = trained

        def forward(self, x):
            return self.net(x)

    held = [{"x": X[HELD], "labels": names[NOISY[HELD]]}]
    found = audit(Keyword(), batches, policy="noisy_holdout", holdout=held, class_names=names, **QUICK)
    edited = found.edit_head("ridge")
    plain = audit(
        trained, (X[TRAIN], NOISY[TRAIN]), policy="noisy_holdout", holdout=(X[HELD], NOISY[HELD]), **QUICK
    ).edit_head("ridge")
    torch.testing.assert_close(edited(X[TEST]), plain(X[TEST]))


def test_an_edited_head_is_fitted_on_verified_labels_without_rows_of_none_of_the_classes(held_out, trained):
    from layerprobe import capture

    rows, right = [*range(10), *range(20, 30)], (NOISY[TRAIN] + 1) % 3
    labels = ["none of the classes" if i < 10 else held_out.classes[right[i]] for i in rows]
    reviewed = held_out.apply(
        [{"index": held_out.index[i], "label": label} for i, label in zip(rows, labels, strict=True)]
    )
    edited = reviewed.edit_head("ridge")
    y = NOISY[TRAIN].clone()
    y[20:30] = right[20:30]
    hidden = capture(trained, X[TRAIN], "fc2").outputs["fc2"]
    weight, bias = Ridge().fit(hidden[10:], y[10:]).linear_
    torch.testing.assert_close(edited.head.weight, weight)
    torch.testing.assert_close(edited.head.bias, bias)
    assert not torch.allclose(edited.head.weight, held_out.edit_head("ridge").head.weight)


def test_trusted_rows_are_the_verified_ones(held_out):
    with pytest.raises(InputError, match="no row is verified"):
        held_out.trusted_rows()
    rows, labels = [3, 20, 7], held_out.classes[[0, 1, 2]]
    decisions = [{"index": held_out.index[i], "label": label} for i, label in zip(rows, labels, strict=True)]
    x, y = held_out.apply(decisions).trusted_rows()
    every = torch.cat([inputs for inputs, _ in held_out.rows.batches()])
    assert torch.equal(x, every[sorted(rows)])
    assert y.tolist() == labels[[0, 2, 1]].tolist()
