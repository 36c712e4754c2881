"""Networks of every kind that people train, each audited after it has learnt partly wrong labels."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from auditing.planted import corrupted
from layerprobe import audit
from layerprobe.errors import InputError
from layerprobe.networks import CNN, ResNet18
from layerprobe.training import seeded

PROBES = ("ridge", "velpic")


def check(found, model, before, true, given):
    """What holds for every audit."""
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert len(found.issues) == len(given)
    assert found.issues["index"].is_unique
    assert found.pred_probs.sum(1) == pytest.approx(np.ones(len(given)))
    wrong = (given != true).numpy()
    scores = found.issues["label_score"].to_numpy()
    assert scores[wrong].mean() < scores[~wrong].mean() - 0.3
    assert (found.issues["suggested_label"] == true.numpy()).mean() > (~wrong).mean()


def test_the_papers_cnn(digits, train):
    with seeded(0):
        model = CNN(1, 8)
    model = train(model, digits.x[:300], digits.given[:300], steps=60, rate=1e-3)
    before = copy.deepcopy(model.state_dict())
    found = audit(
        model,
        (digits.x[:300], digits.given[:300]),
        policy="noisy_holdout",
        holdout=digits.holdout,
        views="flip",
        probes=PROBES,
    )
    check(found, model, before, digits.true[:300], digits.given[:300])
    assert found.settings["layers"] == {"input": 64, "flatten": 64, "fc1": 250, "fc2": 250, "fc3": 250}
    assert (found.predict(digits.test[0]) == digits.test[1].numpy()).mean() > 0.6
    assert "untrained copy" in set(found.controls["control"])


def test_a_resnet_with_few_rows(train):
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(60) % 3
    x = torch.randn(60, 3, 12, 12, generator=generator) / 2 + torch.eye(3)[true][:, :, None, None]
    given = corrupted(true, 3, 0.2, seed=1)
    with seeded(0):
        model = ResNet18(num_classes=3)
    model = train(model, x[:40], given[:40], steps=6, rate=1e-3, size=20).train()
    before = copy.deepcopy(model.state_dict())
    found = audit(
        model, (x[:40], given[:40]), policy="noisy_holdout", holdout=(x[40:], given[40:]), probes=PROBES
    )
    check(found, model, before, true[:40], given[:40])
    assert model.training
    dimensions = found.settings["layers"]
    assert list(dimensions) == list(model.probed_layers)
    assert max(dimensions.values()) <= 2304  # 64 maps of 6 x 6, averaged down from there
    assert dimensions["avgpool"] == 512
    assert (found.predict(x[40:]) == true[40:].numpy()).mean() > 0.8


class VisionTransformer(nn.Module):
    """Patches of 2 x 2 pixels and a class token through two blocks of attention."""

    def __init__(self, width=24):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 17, width) / 5)
        block = nn.TransformerEncoderLayer(width, 4, 48, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 2)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places
        return self.head(self.encoder(tokens)[:, 0])


@pytest.mark.parametrize("pool", [None, "first"])
def test_a_vision_transformer(digits, train, pool):
    with seeded(0):
        model = VisionTransformer()
    model = train(model, digits.x[:300], digits.given[:300], steps=45)
    before = copy.deepcopy(model.state_dict())
    found = audit(
        model,
        (digits.x[:300], digits.given[:300]),
        policy="noisy_holdout",
        holdout=digits.holdout,
        layers=["input", "encoder.layers.*", "head"] if pool is None else ["encoder.layers.*"],
        pool=pool,
        probes=PROBES,
    )
    dimensions = found.settings["layers"]
    assert dimensions["encoder.layers.0"] == dimensions["encoder.layers.1"] == 24
    if pool is None:
        check(found, model, before, digits.true[:300], digits.given[:300])
    else:  # the class token of the last block is what the head reads
        edited = found.edit_head("ridge")
        assert edited(digits.x[:5]).shape == (5, 10)
        reader = found.reader.read(found.rows)
        answer = model.head(reader.own["encoder.layers.1"])
        torch.testing.assert_close(answer, reader.logits, atol=1e-4, rtol=1e-4)


WORDS = {
    "pets": "cat dog paw tail bark",
    "sky": "moon star cloud rain sun",
    "food": "bread soup salt egg rice",
}
COMMON = ["the", "a", "of", "and", "with", "in", "my", "your", "old", "new"]
VOCABULARY = {word: i for i, word in enumerate(["", *COMMON, *" ".join(WORDS.values()).split()])}


def write(n, seed):
    """Texts of three to twelve words, some of which belong to their class."""
    generator = np.random.default_rng(seed)
    true = np.arange(n) % 3
    own = [words.split() for words in WORDS.values()]
    texts = [
        " ".join(
            generator.choice(own[k] if generator.random() < 0.4 else COMMON)
            for _ in range(generator.integers(3, 13))
        )
        + f" {own[k][i % 5]}"
        for i, k in enumerate(true)
    ]
    return texts, true


def tokenise(texts):
    ids = [[VOCABULARY[word] for word in text.split()] for text in texts]
    width = max(map(len, ids))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    return {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        "attention_mask": mask,
    }


@pytest.fixture(scope="module")
def text_classifier(train):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        num_labels=3,
    )
    texts, true = write(330, seed=0)
    given = corrupted(torch.from_numpy(true), 3, 0.3, seed=1)
    with seeded(0):
        model = transformers.BertForSequenceClassification(config)
    with seeded(1):  # of dropout
        model = train(model, tokenise(texts[:180]), given[:180], steps=80, size=60)
    return model, texts, torch.from_numpy(true), given


@pytest.mark.parametrize("pool", [None, "first"])
def test_a_text_classifier_of_transformers(text_classifier, pool):
    model, texts, true, given = text_classifier
    before = copy.deepcopy(model.state_dict())
    found = audit(
        model,
        texts[:180],
        given[:180],
        policy="noisy_holdout",
        holdout=(texts[180:], given[180:]),
        inputs=tokenise,
        layers=["bert.encoder.layer.?", "bert.pooler*"],
        pool=pool,
        class_names=list(WORDS),
        probes=PROBES,
        batch_size=64,
    )
    assert set(found.settings["layers"].values()) == {24}
    new, classes = write(60, seed=9)
    names = np.array(list(WORDS))
    assert set(found.predict(new)) <= set(WORDS)
    assert found.example(3) == texts[3]
    if pool is None:
        codes = found.issues.replace({name: k for k, name in enumerate(WORDS)})
        assert (codes["given_label"] == given[:180].numpy()).all()
        wrong = (given != true)[:180].numpy()
        scores = found.issues["label_score"].to_numpy()
        assert scores[wrong].mean() < scores[~wrong].mean() - 0.2
        assert (found.predict(new) == names[classes]).mean() > 0.7
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_tokens_in_a_dict_are_data_too(text_classifier):
    model, texts, _, given = text_classifier
    rows = {**tokenise(texts), "labels": given}
    train, held = (
        {key: value[part] for key, value in rows.items()} for part in (slice(180), slice(180, None))
    )
    found = audit(
        model,
        train,
        policy="noisy_holdout",
        holdout=held,
        layers=["bert.encoder.layer.*"],
        probes=["ridge"],
        controls=False,
    )
    tokens = {key: value for key, value in held.items() if key != "labels"}
    assert (found.predict(tokens) == found.predict(held)).all()
    assert found.predict({**tokens, "index": np.arange(150)[::-1]}).tolist() == found.predict(tokens).tolist()


def test_layer_of_nan_is_named():
    class Broken(nn.Module):
        def forward(self, x):
            return x * float("nan")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.broken, self.head = nn.Linear(6, 8), Broken(), nn.Linear(8, 3)

        def forward(self, x):
            z = self.first(x)
            self.broken(z)
            return self.head(z)

    x, y = torch.randn(60, 6), torch.arange(60) % 3
    with pytest.raises(InputError, match="layer 'broken' has NaN or infinity in 60 of 60 rows"):
        audit(
            Net(),
            (x, y),
            layers=["first", "broken"],
            policy="noisy_holdout",
            holdout=(x + 1, y),
            controls=False,
        )


class OfPixels(nn.Module):
    """Scales uint8 pixels itself, as `scale` says."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.body, self.act = scale, nn.Linear(64, 16), nn.ReLU()
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(self.act(self.body(x.float() / 255 if self.scale else x)))


@pytest.mark.parametrize("scale", [False, True])
def test_pixels_are_scaled_once(scale):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 3
    pixels = torch.randint(0, 60, (240, 1, 8, 8), generator=generator) + 60 * y[:, None, None, None]
    pixels = pixels.to(torch.uint8)
    model = OfPixels(scale)
    found = audit(
        model,
        (pixels[:160], y[:160]),
        policy="noisy_holdout",
        holdout=(pixels[160:], y[160:]),
        class_names=[0, 1, 2],
        probes="ncm",
        controls=False,
    )
    features = found.reader.read(found.rows)
    with torch.no_grad():
        hidden = model.act(model.body(pixels[:160].flatten(1) / 255))
    torch.testing.assert_close(features.own["act"], hidden)
    torch.testing.assert_close(features.logits, model.head(hidden).detach())
    assert found.predict(pixels).tolist() == found.predict(pixels if scale else pixels / 255).tolist()
    assert (found.predict(pixels) == y.numpy()).mean() > 0.8
