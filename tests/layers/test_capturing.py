"""capture: exact values in the order of the data, one forward a batch, the model left as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe.core.moments import ClassMoments
from layerprobe.errors import InputError, LayerError
from layerprobe.layers import capture


@torch.no_grad()
def expected(mlp, x):
    fc1 = mlp.fc1(x)
    act = fc1.relu()
    fc2 = mlp.fc2(act)
    relu = fc2.relu()
    return {
        "input": x,
        "fc1": fc1,
        "act": act,
        "fc2": fc2,
        "F.relu": relu,
        "fc3": mlp.fc3(relu),
        "output": mlp.fc3(relu),
    }


def test_outputs_of_every_layer_in_order_of_execution(mlp, x):
    captured = capture(mlp, x, "*")
    assert list(captured.outputs) == ["input", "fc1", "act", "fc2", "F.relu", "fc3", "output"]
    for name, values in expected(mlp, x).items():
        torch.testing.assert_close(captured.outputs[name], values)


def test_the_default_is_the_input_and_every_nonlinearity(mlp, x):
    assert list(capture(mlp, x).outputs) == ["input", "act", "F.relu"]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 512])
def test_streaming_equals_one_batch_with_one_forward_per_batch(mlp, x, batch_size):
    captured = capture(mlp, x, "*", batch_size=batch_size)
    assert mlp.forwards == -(-10 // batch_size) + 1  # and one of fewer rows, to find the axis of the rows
    for name, values in expected(mlp, x).items():
        torch.testing.assert_close(captured.outputs[name], values)


def test_a_generator_of_batches_of_unknown_length(mlp, x):
    captured = capture(mlp, (x[i : i + 1] for i in range(10)), "act")
    torch.testing.assert_close(captured.outputs["act"], expected(mlp, x)["act"])
    assert captured.labels is None
    assert captured.indices is None


def test_shuffling_loader_returns_labels_and_indices(mlp, x):
    y = torch.arange(10) % 3
    loader = DataLoader(
        TensorDataset(x, y, torch.arange(10)),
        batch_size=4,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    captured = capture(mlp, loader, "act")
    assert captured.indices.tolist() != list(range(10))
    assert sorted(captured.indices.tolist()) == list(range(10))
    assert captured.labels.tolist() == y[captured.indices].tolist()
    torch.testing.assert_close(captured.outputs["act"], expected(mlp, x)["act"][captured.indices])


@pytest.mark.parametrize(("drop_last", "n"), [(False, 10), (True, 8)])
def test_a_loader_of_known_length_is_stored_once(mlp, x, drop_last, n):
    loader = DataLoader(TensorDataset(x), batch_size=4, drop_last=drop_last)
    rows = capture(mlp, loader, "act").outputs["act"]
    torch.testing.assert_close(rows, expected(mlp, x[:n])["act"])
    assert rows.untyped_storage().nbytes() == n * 5 * 4  # no room to grow into: one allocation, no copy


def test_consume_gets_every_batch_and_nothing_is_held(mlp, x):
    y = np.arange(10) % 3
    seen = []
    captured = capture(mlp, (x, y), "act", batch_size=4, consume=lambda *batch: seen.append(batch))
    assert captured.outputs == {}
    assert captured.labels.tolist() == y.tolist()
    assert [len(labels) for _, labels, _ in seen] == [4, 4, 2]
    rows = torch.cat([outputs["act"] for outputs, _, _ in seen])
    torch.testing.assert_close(rows, expected(mlp, x)["act"])


def test_only_chosen_layers_are_copied(mlp, x):
    copied = []

    def spy(rows):
        copied.append(rows.shape[1])
        return rows

    capture(mlp, x, batch_size=5, pool=spy)
    # In the first batch fc1 as well: it would be chosen if no nonlinearity followed.
    assert copied == [4, 5, 5, 3, 4, 5, 3]


def test_consume_feeds_class_moments(mlp):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (60,), generator=generator)
    model = mlp.double()
    moments = ClassMoments(3, 5, dtype=torch.float64)
    capture(
        model,
        (x, y),
        "act",
        batch_size=7,
        consume=lambda outputs, labels, _: moments.update(outputs["act"], labels),
    )
    whole = ClassMoments(3, 5, dtype=torch.float64)
    whole.update(expected(model, x)["act"], y)
    assert moments.counts.tolist() == y.bincount().tolist()
    streamed, direct = (m.subspaces(variance=0.9) for m in (moments, whole))
    assert streamed.ranks == direct.ranks
    torch.testing.assert_close(
        streamed.squared_cosines(x[:, [0, 1, 2, 3, 0]]), direct.squared_cosines(x[:, [0, 1, 2, 3, 0]])
    )


class Normed(nn.Module):
    """Batch normalisation and dropout, some of it frozen by its owner."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(5, 2)
        self.fail = False

    def forward(self, x):
        x = self.body(x)
        if self.fail:
            raise ZeroDivisionError("from the user's forward")
        return self.head(x)


@pytest.fixture
def normed():
    torch.manual_seed(0)
    model = Normed().train()
    model.body[1].eval()  # a frozen batch norm in a network that trains
    model.body[1].running_mean.normal_()
    return model


def state_of(model):
    flags = {name: module.training for name, module in model.named_modules()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return copy.deepcopy(model.state_dict()), flags, hooks


def assert_state(model, before):
    state, flags, hooks = state_of(model)
    assert state.keys() == before[0].keys()
    assert all(torch.equal(state[name], before[0][name]) for name in state)
    assert flags == before[1]
    assert hooks == before[2]


def test_eval_mode_and_unchanged_model(normed, x):
    before = state_of(normed)
    captured = capture(normed, x, ["body.3", "output"], batch_size=4)
    assert_state(normed, before)
    with torch.no_grad():
        normed.eval()
        torch.testing.assert_close(captured.outputs["body.3"], normed.body(x))
        torch.testing.assert_close(captured.outputs["output"], normed(x))


def test_exception_in_forward_is_raised_and_restores_the_model(normed, x):
    before = state_of(normed)
    normed.fail = True
    with pytest.raises(ZeroDivisionError, match="from the user's forward"):
        capture(normed, x)
    assert_state(normed, before)


def test_an_exception_deep_in_a_submodule_restores_the_model(normed, x):
    before = state_of(normed)
    message = r"layer 'body\.0' \(Linear\) cannot be computed for an input of shape \(10, 3\): mat1 and mat2"
    with pytest.raises(LayerError, match=message):
        capture(normed, x[:, :3])
    assert_state(normed, before)


def test_an_exception_in_consume_or_pool_restores_the_model(normed, x):
    def fail(*_):
        raise ZeroDivisionError

    before = state_of(normed)
    for options in ({"consume": fail}, {"pool": fail}):
        with pytest.raises(ZeroDivisionError):
            capture(normed, x, **options)
        assert_state(normed, before)


def test_training_flags_are_those_of_the_user_in_consume(normed, x):
    flags = []
    capture(normed, x, consume=lambda *_: flags.append((normed.training, torch.is_inference_mode_enabled())))
    assert flags == [(True, False)]


def test_forward_without_gradients_and_outputs_usable_by_autograd(mlp, x):
    modes = []
    mlp.act.register_forward_hook(
        lambda *_: modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    )
    rows = capture(mlp, x, "act").outputs["act"]
    assert set(modes) == {(False, False)}
    assert not rows.requires_grad
    assert not rows.is_inference()  # autograd would refuse to save such a tensor
    consumed = []
    head = nn.Linear(5, 1)
    capture(mlp, x, "act", consume=lambda outputs, *_: consumed.append(head(outputs["act"]).sum().backward()))
    assert consumed == [None]
    assert head.weight.grad is not None


def test_data_of_the_user_is_not_changed(x):
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    given, array = x.clone(), x.numpy().copy()
    array.flags.writeable = False
    for data in (given, array):
        captured = capture(model, data, ["input", "0"])
        torch.testing.assert_close(captured.outputs["input"], x)
        torch.testing.assert_close(captured.outputs["0"], x.relu())
    assert torch.equal(given, x)


@pytest.mark.parametrize(
    ("model_dtype", "data_dtype", "asked", "result"),
    [
        (torch.float64, torch.float32, None, torch.float64),
        (torch.float32, torch.float64, None, torch.float32),
        (torch.bfloat16, torch.float32, None, torch.float32),
        (torch.float16, torch.float32, None, torch.float32),
        (torch.bfloat16, torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.float32, torch.float32, torch.float32),
    ],
)
def test_inputs_have_the_dtype_of_the_model_and_outputs_at_least_float32(
    mlp, x, model_dtype, data_dtype, asked, result
):
    mlp.to(model_dtype)
    rows = capture(mlp, x.to(data_dtype), "act", dtype=asked).outputs["act"]
    assert rows.dtype is result
    with torch.no_grad():
        torch.testing.assert_close(rows, mlp.act(mlp.fc1(x.to(model_dtype))).to(result))


def test_uint8_images_are_default_and_token_ids_are_not():
    embed = nn.Sequential(nn.Embedding(9, 3), nn.ReLU())
    tokens = torch.tensor([[1, 2], [3, 8]])
    assert list(capture(embed, tokens).outputs) == ["1"]
    rows = capture(embed, tokens, "input").outputs["input"]
    assert rows.dtype is torch.float32
    assert rows.tolist() == tokens.tolist()

    class Scaled(nn.Module):
        def forward(self, x):
            return torch.relu(x / 255 - 0.5)

    captured = capture(Scaled(), np.array([[0, 255]], dtype=np.uint8))
    assert captured.outputs["input"].tolist() == [[0.0, 255.0]]
    assert captured.outputs["F.relu"].tolist() == [[0.0, 0.5]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_model_on_gpu_is_not_moved_and_outputs_are_on_cpu(mlp, x):
    before = expected(mlp, x)["act"]
    mlp.cuda()
    devices = []
    captured = capture(mlp, (x, torch.zeros(10)), ["input", "act"])
    capture(mlp, x, "act", consume=lambda outputs, *_: devices.append(outputs["act"].device.type))
    assert next(mlp.parameters()).is_cuda
    assert captured.outputs["act"].device.type == "cpu"
    assert devices == ["cuda"]
    torch.testing.assert_close(captured.outputs["act"], before, rtol=1e-4, atol=1e-5)


def test_device_places_the_batches_of_a_model_without_parameters(x):
    placed = []

    class Bare(nn.Module):
        def forward(self, x):
            placed.append(x.device.type)
            return torch.relu(x) if x.device.type == "cpu" else torch.zeros(len(x), 4)

    capture(Bare(), x, "output", device="meta")
    capture(Bare(), x, "output")
    assert placed == ["meta", "meta", "cpu", "cpu"]  # the first batch runs twice


def test_a_model_that_needs_two_inputs(x):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, left, right):
            return torch.relu(self.fc(left) - self.fc(right))

    model, zeros = Two(), torch.zeros(10, 4)
    with pytest.raises(
        InputError, match=r"Two\.forward\(left, right\) was given 1 input.*'right'.*dict"
    ) as raised:
        capture(model, (x, torch.zeros(10)))
    assert isinstance(raised.value.__cause__, TypeError)
    by_keyword = capture(
        model, {"left": x, "right": zeros, "labels": torch.arange(10)}, ["fc", "fc:2", "output"]
    )
    by_place = capture(
        model, [((x[:6], zeros[:6]), torch.arange(6)), ((x[6:], zeros[6:]), torch.arange(6, 10))], "output"
    )
    with torch.no_grad():
        torch.testing.assert_close(by_keyword.outputs["fc"], model.fc(x))
        torch.testing.assert_close(by_keyword.outputs["fc:2"], model.fc(zeros))
        torch.testing.assert_close(by_keyword.outputs["output"], model(x, zeros))
    torch.testing.assert_close(by_place.outputs["output"], by_keyword.outputs["output"])
    assert by_place.labels.tolist() == by_keyword.labels.tolist() == list(range(10))


def test_type_error_inside_forward_is_not_replaced(x):
    class Wrong(nn.Module):
        def forward(self, x):
            return x + "1"

    with pytest.raises(TypeError) as raised:
        capture(Wrong(), x)
    assert not isinstance(raised.value, InputError)


class Sometimes(nn.Module):
    """Control flow that no tracer follows: the second layer runs only for batches with a positive sum."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return torch.relu(self.second(x)) if x.sum().item() > 0 else x


def test_data_dependent_control_flow(x):
    model = Sometimes()
    nn.init.eye_(model.first.weight)
    nn.init.zeros_(model.first.bias)
    on, off = x.abs(), -x.abs()
    captured = capture(model, [on, on], ["F.relu", "second"])
    torch.testing.assert_close(captured.outputs["F.relu"], torch.cat([on, on]))
    assert capture(model, [on, off], "first").outputs["first"].shape == (20, 4)
    with pytest.raises(LayerError, match="'second' gave rows in batch 1 but not in batch 2: it did not run"):
        capture(model, [on, off], "second")
    with pytest.raises(LayerError, match=r"'F\.relu:2' gave rows in batch 2 but not in batch 1"):
        capture(model, [off, on])


def test_a_dimension_that_changes_between_batches():
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.ReLU())
    batches = [torch.zeros(2, 1, 5), torch.zeros(2, 1, 7)]
    with pytest.raises(LayerError, match="'1' has 14 features per row in batch 2 and 10 before"):
        capture(model, batches, "1")
    assert capture(model, batches, "1", pool=lambda x: x.mean(2)).outputs["1"].shape == (4, 2)


def test_captured_has_a_short_repr(mlp, x):
    assert repr(capture(mlp, x, ["input", "act"])) == "CaptureResult(input (10, 4), act (10, 5))"
    assert repr(capture(mlp, x, "act", consume=lambda *_: None)) == "CaptureResult(no outputs held)"


def test_a_batch_size_below_one(mlp, x):
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 1, got 0"):
        capture(mlp, x, batch_size=0)
