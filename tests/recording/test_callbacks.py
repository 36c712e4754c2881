"""Callbacks: the Trainer of transformers where it can run, and stand-ins with the hooks of both trainers."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

from layerprobe import History
from layerprobe.errors import InputError
from layerprobe.training import seeded

N, K = 24, 2


class Texts(Dataset):
    """Token ids of different lengths, as a tokenizer gives them, with labels."""

    def __init__(self, n, seed):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, K, n)
        self.ids = [rng.integers(2 + 20 * label, 30, rng.integers(4, 9)).tolist() for label in self.labels]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "labels": int(self.labels[i])}


def pad(items):
    length = max(len(item["input_ids"]) for item in items)
    ids = torch.tensor([item["input_ids"] + [0] * (length - len(item["input_ids"])) for item in items])
    labels = torch.tensor([item["labels"] for item in items])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def collate(items):
    assert all(set(item) == {"input_ids", "labels"} for item in items)
    return pad(items)


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=K,
    )
    with seeded(0):
        return transformers.BertForSequenceClassification(config)


def expected_margins(model, data):
    batch = pad([data[i] for i in range(len(data))])
    y = batch.pop("labels")
    with torch.no_grad():
        z = model.eval()(**batch).logits
    return (z.gather(1, y[:, None]) - z.gather(1, 1 - y[:, None])).squeeze(1).numpy()


TRAIN, HELD = Texts(N, 0), Texts(16, 1)


def history(**options):
    return History(TRAIN.labels, holdout=HELD, layer="bert.encoder.layer.0", progress=False, **options)


def test_trainer_of_transformers_records_each_epoch(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    recorded, model = history(full=True), bert()
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        num_train_epochs=3,
        per_device_train_batch_size=5,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model, arguments, data_collator=pad, train_dataset=TRAIN, callbacks=[recorded.trainer_callback()]
    )
    trainer.train()
    check(recorded, model)


def hub(texts):
    """The texts as a Hugging Face dataset."""
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list([texts[i] for i in range(len(texts))])


@pytest.mark.parametrize("of_hub", [False, True])
def test_callback_handler_of_transformers_records_each_epoch(of_hub):
    pytest.importorskip("transformers")
    from transformers.trainer_callback import (
        CallbackHandler,
        DefaultFlowCallback,
        TrainerControl,
        TrainerState,
    )

    recorded, model = history(full=True), bert()
    data = hub(TRAIN) if of_hub else TRAIN
    if of_hub:  # the Trainer leaves out columns that the model does not take
        recorded.holdout = hub(HELD).add_column("text", ["text"] * len(HELD))
    loader = DataLoader(data, 5, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    handler = CallbackHandler(
        [DefaultFlowCallback(), recorded.trainer_callback()], model, None, optimizer, None
    )
    handler.train_dataloader = loader
    arguments = SimpleNamespace(
        per_device_eval_batch_size=8, eval_strategy="no", save_strategy="no", logging_strategy="no"
    )
    state, control = TrainerState(), TrainerControl()
    control = handler.on_train_begin(arguments, state, control)
    for _ in range(3):
        control = handler.on_epoch_begin(arguments, state, control)
        model.train()
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        control = handler.on_epoch_end(arguments, state, control)
        assert model.training
    check(recorded, model)


def check(recorded, model):
    """The history has three epochs, and its last margins are those of the trained network."""
    assert recorded.num_epochs == 3
    np.testing.assert_allclose(recorded.margins[-1], expected_margins(model.cpu(), TRAIN), atol=1e-5)
    right = expected_margins(model, HELD) > 0
    assert recorded.holdout_accuracy[-1] == right.mean()
    assert recorded.curves.notna().all(axis=None)


# Lightning ----------------------------------------------------------------------------------------------


class Module(nn.Linear):
    """Stand-in of a LightningModule."""

    returned = ("loss",)

    def training_step(self, batch, batch_idx):
        x, y, index = batch
        logits = self(x)
        results = {"loss": cross_entropy(logits, y), "logits": logits.detach(), "index": index}
        return {name: results[name] for name in self.returned}


class StandIn:
    """Calls the hooks of a callback in the order and with the arguments of Lightning's Trainer."""

    def __init__(self, callback, max_epochs):
        self.callback, self.max_epochs = callback, max_epochs

    def fit(self, module, loader):
        self.train_dataloader = loader
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        self.callback.on_train_start(self, module)
        for _ in range(self.max_epochs):
            module.train()
            for i, batch in enumerate(loader):
                outputs = module.training_step(batch, i)
                optimizer.zero_grad()
                outputs["loss"].backward()
                optimizer.step()
                outputs["loss"] = outputs["loss"].detach()
                self.callback.on_train_batch_end(self, module, outputs, batch, i)
            self.callback.on_train_epoch_end(self, module)


X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % K
POINTS = TensorDataset(X, Y, torch.arange(N))


@pytest.fixture
def lightning(monkeypatch):
    """A stand-in for the package where it is not installed."""
    package, inner = ModuleType("lightning"), ModuleType("lightning.pytorch")
    inner.Callback = package.pytorch = type("Callback", (), {})
    package.pytorch = inner
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", inner)
    return inner


def test_lightning_callback_records_the_data_of_the_trainer(lightning):
    recorded = History(Y, holdout=(X[:9] + 1, Y[:9]), progress=False, full=True)
    callback = recorded.lightning_callback()
    assert isinstance(callback, lightning.Callback)
    module = Module(3, K)
    StandIn(callback, 2).fit(module, DataLoader(POINTS, 5, shuffle=True, drop_last=True))
    z = module(X).detach()
    margin = z[range(N), Y] - z[range(N), 1 - Y]
    np.testing.assert_allclose(recorded.margins[-1], margin.numpy(), atol=1e-6)
    assert recorded.curves["rows"].tolist() == [N, N]


def test_lightning_callback_records_steps_that_return_logits(lightning):
    recorded = History(Y, progress=False)
    module = Module(3, K)
    module.returned = ("loss", "logits", "index")
    StandIn(recorded.lightning_callback(), 2).fit(module, DataLoader(POINTS, 5, shuffle=True, drop_last=True))
    assert recorded.curves["rows"].tolist() == [20, 20]  # of 24, since the last batch is dropped


def test_real_lightning_trainer_records_each_epoch(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")

    class Real(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, K)

        def forward(self, x):
            return self.linear(x)

        def training_step(self, batch, batch_idx):
            return cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    recorded = History(Y, holdout=(X[:9] + 1, Y[:9]), progress=False, full=True)
    module = Real()
    trainer = lightning.Trainer(
        max_epochs=2,
        callbacks=[recorded.lightning_callback()],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(POINTS, 5, shuffle=True))
    z = module(X).detach()
    margin = z[range(N), Y] - z[range(N), 1 - Y]
    np.testing.assert_allclose(recorded.margins[-1], margin.numpy(), atol=1e-6)
    assert recorded.num_epochs == 2


def test_missing_packages_are_named(monkeypatch):
    for name in ("transformers", "lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install transformers"):
        History(Y).trainer_callback()
    with pytest.raises(InputError, match="pip install lightning"):
        History(Y).lightning_callback()


def test_history_imports_no_trainer():
    script = (
        "import sys; from layerprobe import History; History([0, 1]); "
        "print({'transformers', 'lightning', 'pytorch_lightning', 'matplotlib'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "set()"
