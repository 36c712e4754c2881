"""From layer outputs of any shape to rows: the channels are where the producing module puts them."""

import math
from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn import functional

from layerprobe.errors import InputError, LayerError
from layerprobe.layers import capture

IMAGES = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(6, 7, 3, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
SIGNALS = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(3))
VOLUMES = torch.randn(6, 2, 4, 4, 4, generator=torch.Generator().manual_seed(4))
LENGTHS = torch.tensor([1, 2, 3, 4, 5, 7])
KEPT = torch.arange(7) < LENGTHS[:, None]


class From(nn.Module):
    """A module made of a function and, as keywords, its submodules."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def pooled(model, x, layer, pool, **options):
    """Return the rows of one layer, and its output in a plain forward pass, which a hook takes."""
    taken = []
    module = dict(model.named_modules())[layer]
    handle = module.register_forward_hook(lambda module, inputs, output: taken.append(output))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    output = taken[-1]
    return capture(model, x, layer, pool=pool, **options).outputs[layer], output


LINEAR = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.LayerNorm(5))
CONVOLUTIONS = {
    1: nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5), nn.ReLU(), nn.MaxPool1d(2)),
    2: nn.Sequential(nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5), nn.GELU(), nn.AvgPool2d(2)),
    3: nn.Sequential(nn.Conv3d(2, 5, 2), nn.GroupNorm(1, 5), nn.SiLU(), nn.AdaptiveAvgPool3d(2)),
}


@pytest.mark.parametrize("layer", ["0", "1", "2", "3"])
@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize(("k", "x"), [(1, SIGNALS), (2, IMAGES), (3, VOLUMES)])
def test_channels_of_a_convolutional_network_come_first(layer, pool, k, x):
    rows, output = pooled(CONVOLUTIONS[k], x, layer, pool, batch_size=4)
    flat = output.flatten(2)
    torch.testing.assert_close(rows, flat.mean(2) if pool == "mean" else flat.amax(2))


@pytest.mark.parametrize("layer", ["0", "1", "2"])
@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("mean", lambda y: y.mean(1)),
        ("max", lambda y: y.amax(1)),
        ("first", lambda y: y[:, 0]),
        ("last", lambda y: y[:, -1]),
        ("compact", lambda y: y.mean(1)),
        (None, lambda y: y.flatten(1)),
        (lambda x: x[:, 2], lambda y: y[:, 2]),
        ({"[0-2]": "max", "*": "mean"}, lambda y: y.amax(1)),
        ({"?": "last"}, lambda y: y[:, -1]),
    ],
)
def test_features_of_a_network_of_tokens_come_last(layer, pool, expected):
    rows, output = pooled(LINEAR, TOKENS, layer, pool, batch_size=4)
    torch.testing.assert_close(rows, expected(output))


class Vision(nn.Module):
    """Patches, a class token, attention and a norm of channels-last maps, as vision transformers have."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 1)
        self.token = nn.Parameter(torch.ones(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.norm, self.act, self.head = nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(self.act(self.norm(self.block(x)))[:, 0])


class Next(nn.Module):
    """Maps that are permuted to channels last, normalised, and permuted back, as in ConvNeXt."""

    def __init__(self, permute):
        super().__init__()
        self.permute = permute
        self.conv, self.norm, self.wide = nn.Conv2d(3, 6, 3, padding=1), nn.LayerNorm(6), nn.Linear(6, 12)
        self.act, self.narrow, self.back = nn.GELU(), nn.Linear(12, 6), nn.Identity()

    def forward(self, x):
        y = self.act(self.wide(self.norm(self.permute(self.conv(x), (0, 2, 3, 1)))))
        return self.back(self.permute(self.narrow(y), (0, 3, 1, 2)))


def moved(x, order):
    return x.movedim(1, 3) if order == (0, 2, 3, 1) else x.movedim(3, 1)


@pytest.mark.parametrize("permute", [torch.permute, torch.Tensor.permute, lambda x, o: x.permute(*o), moved])
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_permuted_maps(permute, pool):
    reduce = torch.mean if pool == "mean" else torch.amax
    for layer in ("conv", "back"):
        rows, output = pooled(Next(permute), IMAGES, layer, pool)
        torch.testing.assert_close(rows.shape, (6, 6))
    model = Next(permute)
    for layer, positions in (
        ("conv", (2, 3)),
        ("norm", (1, 2)),
        ("act", (1, 2)),
        ("narrow", (1, 2)),
        ("back", (2, 3)),
    ):
        rows, output = pooled(model, IMAGES, layer, pool, batch_size=4)
        torch.testing.assert_close(rows, reduce(output, positions))


@pytest.mark.parametrize("layer", ["block", "block.linear1", "norm", "act"])
def test_a_vision_transformer(layer):
    rows, output = pooled(Vision(), IMAGES, layer, "mean", batch_size=4)
    torch.testing.assert_close(rows, output.mean(1))
    first = pooled(model := Vision(), IMAGES, layer, "first")
    torch.testing.assert_close(first[0], first[1][:, 0])
    with torch.no_grad():
        patch = model.patch(IMAGES)
    torch.testing.assert_close(
        capture(model, IMAGES, "patch", pool="mean").outputs["patch"], patch.mean((2, 3))
    )


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("first", [False, True])
def test_a_recurrent_network_with_time_or_rows_first(kind, first):
    model = From(
        lambda self, x: self.head(self.rnn(x if first else x.transpose(0, 1))[0]),
        rnn=kind(3, 4, batch_first=first),
        head=nn.Linear(4, 2),
    )
    with torch.no_grad():
        hidden = model.rnn(TOKENS if first else TOKENS.transpose(0, 1))[0]
    hidden = hidden if first else hidden.transpose(0, 1)
    for pool, expected in (("mean", hidden.mean(1)), ("last", hidden[:, -1]), (None, hidden.flatten(1))):
        rows = capture(model, TOKENS, "rnn", pool=pool, batch_size=4).outputs["rnn"]
        torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize(
    ("layer", "function", "x", "positions"),
    [
        ("F.relu", lambda self, x: torch.relu(self.conv(x)), SIGNALS, 2),
        ("F.add", lambda self, x: self.conv(x) + self.conv(x), SIGNALS, 2),
        ("F.cat", lambda self, x: torch.cat([self.conv(x), self.conv(x)], 1), SIGNALS, 2),
        ("F.mul", lambda self, x: self.linear(x * 2), TOKENS, 1),  # by its consumer
        ("F.mul", lambda self, x: self.conv((x * 2).transpose(1, 2)), TOKENS, 1),
        (
            "F.mul",
            lambda self, x: torch.addmm(self.linear.bias, (x * 2).view(-1, 3), self.linear.weight.T),
            TOKENS,
            1,
        ),
        ("F.matmul", lambda self, x: x @ self.linear.weight.T, TOKENS, 1),
        ("F.relu", lambda self, x: torch.relu(functional.conv1d(x, torch.ones(4, 3, 2))), SIGNALS, 2),
        ("F.mul", lambda self, x: self.linear((x * 2).mean(1)), TOKENS, 1),
        ("F.mul", lambda self, x: self.linear((x * 2).amax(dim=1)), TOKENS, 1),
        ("F.mul", lambda self, x: self.linear((x * 2)[:, 0]), TOKENS, 1),
        ("F.mul", lambda self, x: self.linear((x * 2)[:, -1, ...]), TOKENS, 1),
        ("F.mul", lambda self, x: self.linear((x * 2).sum((2, 3))), IMAGES, (2, 3)),
        ("F.softmax", lambda self, x: self.linear(x).softmax(-1), TOKENS, 1),
    ],
)
def test_functional_operations_take_the_channels_of_their_neighbours(layer, function, x, positions):
    model = From(function, conv=nn.Conv1d(3, 5, 3), linear=nn.Linear(3, 5))
    flat = capture(model, x, layer, pool=lambda y: y.mean(positions)).outputs[layer]
    torch.testing.assert_close(capture(model, x, layer, pool="mean").outputs[layer], flat)


@pytest.mark.parametrize(
    ("model", "x", "expected"),
    [
        (nn.Sequential(nn.Conv1d(3, 5, 3)), SIGNALS, SIGNALS.mean(2)),
        (nn.Sequential(nn.Conv2d(3, 5, 3)), IMAGES, IMAGES.mean((2, 3))),
        (LINEAR, TOKENS, TOKENS.mean(1)),
        (
            From(lambda s, x: s.conv(x.permute(0, 3, 1, 2)), conv=nn.Conv2d(5, 2, 1)),
            IMAGES,
            IMAGES.mean((1, 2)),
        ),
    ],
)
def test_the_first_layer_shows_the_channels_of_the_input(model, x, expected):
    rows = capture(model, x, "input", pool={"input": "mean"}).outputs["input"]
    torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last"])
def test_policy_for_all_layers_does_not_pool_the_input(pool):
    outputs = capture(LINEAR, TOKENS, ["input", "1"], pool=pool).outputs
    torch.testing.assert_close(outputs["input"], TOKENS.flatten(1))
    assert outputs["1"].shape == (6, 5)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.Identity(), TOKENS),
        (nn.Identity(), IMAGES),
        (From(lambda self, x: x.unflatten(2, (2, 4)).transpose(1, 2) / 2), SIGNALS),
        (From(lambda self, x: torch.einsum("nct,nds->ncs", x, x)), SIGNALS),
    ],
)
@pytest.mark.parametrize("pool", ["mean", "max", "first", "last"])
def test_unknown_channels_are_not_guessed(model, x, pool):
    message = (
        r"cannot be applied to layer 'output', \(6, .*which dimension is the channels.*give it a function"
    )
    with pytest.raises(LayerError, match=message):
        capture(model, x, "output", pool=pool)
    flat = capture(model, x, "output").outputs["output"]
    torch.testing.assert_close(capture(model, x, "output", pool="compact").outputs["output"], flat)


@pytest.mark.parametrize("pool", [None, "mean", "max", "first", "last", "compact"])
def test_rows_without_positions_are_not_pooled(pool):
    torch.testing.assert_close(capture(nn.Identity(), ROWS, "output", pool=pool).outputs["output"], ROWS)
    scalars = capture(nn.Identity(), ROWS[:, 0], "output", pool=pool).outputs["output"]
    torch.testing.assert_close(scalars, ROWS[:, :1])


def test_compact_averages_large_feature_maps_by_blocks():
    for conv, size, pool in (
        (nn.Conv2d(3, 16, 1), (20, 20), functional.adaptive_avg_pool2d),
        (nn.Conv3d(3, 16, 1), (9, 9, 9), functional.adaptive_avg_pool3d),
    ):
        maps = torch.randn(2, 3, *size)
        rows, output = pooled(nn.Sequential(conv), maps, "0", "compact")
        side = math.floor(64 ** (1 / len(size)) + 1e-9)
        torch.testing.assert_close(rows, pool(output, side).flatten(1))
    last = From(
        lambda self, x: self.act(self.conv(x).permute(0, 2, 3, 1)), conv=nn.Conv2d(3, 16, 1), act=nn.ReLU()
    )
    rows, output = pooled(last, torch.randn(2, 3, 20, 20), "act", "compact")
    torch.testing.assert_close(rows, functional.adaptive_avg_pool2d(output.permute(0, 3, 1, 2), 8).flatten(1))
    rows, output = pooled(nn.Sequential(nn.Conv2d(3, 16, 1)), IMAGES, "0", "compact")
    torch.testing.assert_close(rows, output.flatten(1))
    rows, output = pooled(CONVOLUTIONS[1], SIGNALS, "2", "compact")
    torch.testing.assert_close(rows, output.mean(2))


def text_model(forward):
    torch.manual_seed(0)
    return From(forward, body=nn.Linear(3, 4), act=nn.Tanh())


MASKS = {
    "attention_mask": (KEPT.long(), lambda self, x, attention_mask: self.act(self.body(x))),
    "decoder_attention_mask": (KEPT, lambda self, x, decoder_attention_mask: self.act(self.body(x))),
    "additive attention_mask": (
        torch.zeros(6, 7).masked_fill(~KEPT, -math.inf),
        lambda self, x, attention_mask: self.act(self.body(x)),
    ),
    "src_key_padding_mask": (~KEPT, lambda self, x, src_key_padding_mask: self.act(self.body(x))),
    "pad_mask": ((~KEPT).float(), lambda self, x, pad_mask: self.act(self.body(x))),
    "lengths": (LENGTHS, lambda self, x, lengths: self.act(self.body(x))),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("key", MASKS)
def test_padding_is_left_out(key, side):
    if side == "left" and key == "lengths":
        pytest.skip("lengths count from the first token")
    mask, forward = MASKS[key]
    mask, x, kept = (mask, TOKENS, KEPT) if side == "right" else (mask.flip(1), TOKENS.flip(1), KEPT.flip(1))
    model = text_model(forward)
    with torch.no_grad():
        hidden = [model.act(model.body(one[keep])) for one, keep in zip(x, kept, strict=True)]
    expected = {
        "mean": torch.stack([h.mean(0) for h in hidden]),
        "compact": torch.stack([h.mean(0) for h in hidden]),
        "max": torch.stack([h.amax(0) for h in hidden]),
        "first": torch.stack([h[0] for h in hidden]),
        "last": torch.stack([h[-1] for h in hidden]),
    }
    for pool, rows in expected.items():
        for size in (1, 4, 6):
            batch = {"x": x, key.split()[-1]: mask}
            got = capture(model, batch, "act", pool=pool, batch_size=size).outputs["act"]
            torch.testing.assert_close(got, rows)


def bound(name):
    """Return a model whose second positional input has a name."""
    namespace = {}
    exec(f"def forward(self, x, {name}): return self.act(self.body(x))", namespace)
    model = text_model(None)
    model.forward = namespace["forward"].__get__(model)
    return model


def test_a_positional_mask_has_the_name_of_its_argument():
    model = bound("src_key_padding_mask")
    rows = capture(model, [((TOKENS, ~KEPT), None)], "act", pool="mean").outputs["act"]
    with torch.no_grad():
        hidden = model.act(model.body(TOKENS))
    torch.testing.assert_close(rows, (hidden * KEPT[..., None]).sum(1) / LENGTHS[:, None])


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("mask", ~KEPT, "it is not known if 'mask' is a mask of the tokens"),
        ("token_mask", KEPT.flip(1).float(), "it is not known if 'token_mask' is a mask of the tokens"),
    ],
)
@pytest.mark.parametrize("pool", ["mean", "max", "first", "last", "compact"])
def test_a_mask_that_is_not_understood_is_an_error(name, mask, message, pool):
    with pytest.raises(LayerError, match=f"{message}.*give it a function"):
        capture(bound(name), [((TOKENS, mask), None)], "act", pool=pool)


@pytest.mark.parametrize(("name", "mask"), [("attention_mask", KEPT), ("lengths", LENGTHS)])
@pytest.mark.parametrize("pool", ["mean", "max", "first", "last"])
def test_tokens_that_are_not_those_of_the_mask(name, mask, pool):
    model = bound(name)
    model.conv = nn.Conv1d(3, 3, 3, stride=2)
    forward = model.forward
    model.forward = MethodType(lambda self, x, **kw: forward(self.conv(x.mT).mT, **kw), model)
    batch = {"x": TOKENS, name: mask}
    with pytest.raises(LayerError, match="3 tokens are not those of the inputs, of which some are padding"):
        capture(model, batch, "act", pool=pool)
    flat = capture(model, batch, "act").outputs["act"]
    torch.testing.assert_close(capture(model, batch, "act", pool="compact").outputs["act"], flat)


def test_an_input_without_a_mask_has_no_padding():
    """Encoder and decoder: the mask is for one of them."""

    def forward(self, x, attention_mask, decoder):
        return self.act(self.body(x)), self.act(self.body(decoder))

    batch = {"x": TOKENS, "attention_mask": KEPT, "decoder": TOKENS[:, :4]}
    outputs = capture(text_model(forward), batch, ["act", "act:2"], pool="mean", batch_size=4).outputs
    model = text_model(forward)
    with torch.no_grad():
        hidden = model.act(model.body(TOKENS))
    torch.testing.assert_close(outputs["act"], (hidden * KEPT[..., None]).sum(1) / LENGTHS[:, None])
    torch.testing.assert_close(outputs["act:2"], hidden[:, :4].mean(1))


@pytest.mark.parametrize("name", ["mask", "attention_mask"])
def test_a_mask_without_padding_changes_nothing(name):
    mask = torch.ones(6, 7)
    rows = capture(bound(name), [((TOKENS, mask), None)], "act", pool="mean").outputs["act"]
    plain = capture(LINEAR, TOKENS, "0", pool="mean")
    assert rows.shape == (6, 4)
    assert plain.outputs["0"].shape == (6, 5)


def packed(self, x):
    lengths = (x != 0).any(2).sum(1)
    out, _ = self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return self.act(nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0])


def attended(self, x):
    return self.act(self.attention(x, x, x, key_padding_mask=(x == 0).all(2))[0])


@pytest.mark.parametrize(
    "model",
    [
        From(packed, rnn=nn.GRU(3, 4, batch_first=True), act=nn.ReLU()),
        From(attended, attention=nn.MultiheadAttention(3, 1, batch_first=True), act=nn.ReLU()),
    ],
    ids=["packed", "attention"],
)
def test_padding_that_only_the_network_finds_is_an_error(model):
    x = TOKENS * KEPT[..., None]
    with pytest.raises(LayerError, match="the network finds padding by itself"):
        capture(model, x, "act", pool="mean")


def test_a_convolution_after_pooling_and_flattening():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    with torch.no_grad():
        maps = model(IMAGES)  # (6, 8, 2, 3)
    torch.testing.assert_close(capture(model, IMAGES, "1").outputs["1"], maps.flatten(1))
    torch.testing.assert_close(capture(model, IMAGES, "1", pool="mean").outputs["1"], maps.mean((2, 3)))


def test_pooling_is_not_recorded_as_a_layer():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    assert list(capture(model, IMAGES, "*", pool="mean").outputs) == ["input", "0", "1", "output"]


@pytest.mark.parametrize("pool", ["first", "last"])
def test_first_token_does_not_keep_other_tokens_in_memory(pool):
    sizes = []
    capture(
        LINEAR,
        TOKENS,
        "0",
        pool=pool,
        consume=lambda outputs, *_: sizes.append(outputs["0"].untyped_storage().nbytes()),
    )
    assert sizes == [6 * 5 * 4]


def test_half_precision_is_pooled_in_float32():
    x = torch.full((2, 3, 1), 1.0, dtype=torch.bfloat16)
    x[:, 0] = 256
    model = nn.Sequential(nn.LayerNorm(1, elementwise_affine=False), nn.Linear(1, 1)).bfloat16()
    rows = capture(model, x, "input", pool={"input": "mean"}).outputs["input"]
    assert rows.tolist() == [[86.0], [86.0]]


@pytest.mark.parametrize(
    ("pool", "error", "message"),
    [
        ("median", InputError, "one of mean, max, first, last, compact, got 'median'"),
        ({"*": "median"}, InputError, "got 'median'"),
        (3, InputError, "got 3"),
        ({"*": ["mean"]}, InputError, r"got \['mean'\]"),
        ("first", LayerError, r"layer '0', \(6, 5, 3, 4\): a token is taken from \(n, tokens, channels\)"),
        (lambda x: x.mean(), InputError, r"return 6 rows for layer '0', got the shape \(\)"),
        (lambda x: 3, InputError, "got int"),
        ({"inputs": "mean"}, LayerError, "no layer matches 'inputs'"),
    ],
)
def test_invalid_pool_is_refused(pool, error, message):
    with pytest.raises(error, match=message):
        capture(CONVOLUTIONS[2], IMAGES, "0", pool=pool)


class TokensAnd(nn.Module):
    """An embedding of token ids; the second input, of any name, has no effect on it."""

    def __init__(self, name):
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.forward = {
            "seq_len": lambda ids, seq_len: self.embed(ids),
            "n_tokens": lambda ids, n_tokens: self.embed(ids),
            "sizes": lambda ids, sizes: self.embed(ids),
            "valid": lambda ids, valid: self.embed(ids),
            "mask": lambda ids, mask: self.embed(ids),
            "attention_mask": lambda ids, attention_mask: self.embed(ids),
        }[name]


def tokens_of_lengths(left=False):
    torch.manual_seed(0)
    lengths = torch.tensor([3, 7, 5, 1, 6])
    mask = torch.arange(7) < lengths[:, None]
    mask = mask.flip(1) if left else mask
    return torch.randint(1, 20, (5, 7)) * mask, lengths, mask


@pytest.mark.parametrize("name", ["seq_len", "n_tokens", "sizes"])
def test_lengths_of_other_names(name):
    ids, lengths, _ = tokens_of_lengths()
    model = TokensAnd(name)
    rows = capture(model, {"ids": ids, name: lengths}, "embed", pool="mean").outputs["embed"]
    expected = [model.embed(ids[i, : lengths[i]]).mean(0) for i in range(5)]
    torch.testing.assert_close(rows, torch.stack(expected).detach())


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float])
def test_masks_of_other_names(left, dtype):
    ids, _, mask = tokens_of_lengths(left)
    model = TokensAnd("valid")
    rows = capture(model, {"ids": ids, "valid": mask.to(dtype)}, "embed", pool="mean").outputs["embed"]
    expected = [model.embed(ids[i][mask[i]]).mean(0) for i in range(5)]
    torch.testing.assert_close(rows, torch.stack(expected).detach())


def test_numbers_per_row_that_are_no_lengths_change_nothing():
    ids, model = torch.randint(1, 20, (5, 7)), TokensAnd("sizes")
    kinds = torch.tensor([1, 2, 1, 3, 2])
    rows = capture(model, {"ids": ids, "sizes": kinds}, "embed", pool="mean").outputs["embed"]
    torch.testing.assert_close(rows, model.embed(ids).mean(1).detach())


def test_inputs_that_may_or_may_not_show_padding_are_refused():
    ids, lengths, mask = tokens_of_lengths()
    full = torch.randint(1, 20, (5, 7))
    refused = [
        ("seq_len", ids, lengths / 7, "'seq_len' holds shares or measures"),
        ("seq_len", ids, torch.ones(5), "'seq_len' holds shares or measures"),
        ("n_tokens", ids, torch.linspace(1.2, 3.4, 5), "'n_tokens' holds shares or measures"),
        ("valid", ids, ~mask, "not known if 'valid' is a mask"),
        ("valid", full, torch.randint(0, 2, (5, 7)), "not known if 'valid' is a mask"),
        ("sizes", full, lengths, "call it lengths"),
        ("attention_mask", ids, mask[:, None, None], r"'attention_mask' has the shape \(5, 1, 1, 7\)"),
        ("attention_mask", ids, mask[:, None] & mask[:, :, None], r"has the shape \(5, 7, 7\)"),
    ]
    for name, x, value, message in refused:
        with pytest.raises(LayerError, match=message):
            capture(TokensAnd(name), {"ids": x, name: value}, "embed", pool="mean")


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("form", ["tokens", "padding", "additive"])
def test_values_decide_what_an_input_called_mask_means(form, side, pool):
    ids, _, kept = tokens_of_lengths(side == "left")
    model = TokensAnd("mask")
    mask = {"tokens": kept, "padding": (~kept).long(), "additive": torch.where(kept, 0.0, -torch.inf)}[form]
    if form == "padding":  # every row has padding, as in a batch padded to a fixed length
        pad = (0, 1) if side == "right" else (1, 0)
        ids, mask, kept = (
            nn.functional.pad(values, pad, value=number)
            for values, number in ((ids, 0), (mask, 1), (kept, False))
        )
    rows = capture(model, {"ids": ids, "mask": mask}, "embed", pool=pool).outputs["embed"]
    for row, tokens, own in zip(rows, ids, kept, strict=True):
        x = model.embed(tokens[own])
        expected = {"mean": x.mean(0), "max": x.amax(0), "first": x[0], "last": x[-1]}[pool]
        torch.testing.assert_close(row, expected)
