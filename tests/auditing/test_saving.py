import hashlib
import json
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from layerprobe import Audit, audit, audit_features
from layerprobe.auditing.saving import pack, unpack
from layerprobe.errors import DataError, InputError
from layerprobe.networks import MLP
from layerprobe.probes import MASC, NearestClassMean, available
from layerprobe.training import Recipe, seeded, train

NAMES = np.array(["ant", "<b>bee", "cat"])
generator = torch.Generator().manual_seed(0)
CENTRES = 2 * torch.randn(3, 6, generator=generator)
TRUE = torch.arange(240) % 3
X = CENTRES[TRUE] + torch.randn(240, 6, generator=generator)
NOISY = torch.where(torch.rand(240, generator=generator) < 0.3, TRUE.roll(1), TRUE)
TRAIN, HELD, NEW = slice(0, 120), slice(120, 200), slice(200, 240)


def network(*hidden):
    with seeded(1):
        return MLP(6, hidden=hidden, num_classes=3)


def brighter(x):
    return x + 0.1


def standardised(x):
    return x / 3


def halved(x):
    return x.flatten(1)[:, ::2]


@pytest.fixture(scope="module")
def trained():
    model = network(12, 8)
    train(model, X[TRAIN], NOISY[TRAIN], Recipe("adam", 1e-2, 32, max_epochs=15), order_seed=0)
    return model


def audited(model, **options):
    return audit(
        model,
        (X[TRAIN], NAMES[NOISY[TRAIN]]),
        policy="noisy_holdout",
        holdout=(X[HELD], NAMES[NOISY[HELD]]),
        **{"class_names": NAMES, "controls": False, **options},
    )


@pytest.fixture(scope="module")
def plain(trained):
    return audited(trained)


@pytest.fixture(scope="module")
def personal(trained):
    return audited(trained, views=[brighter], pool={"fc1": "mean", "*": halved}, inputs=standardised)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.safetensors"


def same(one, other):
    pd.testing.assert_frame_equal(one.issues, other.issues, check_exact=True)
    pd.testing.assert_frame_equal(one.layers, other.layers, check_exact=True)
    pd.testing.assert_frame_equal(one.controls, other.controls, check_exact=True)
    for field in fields(one.noise):
        np.testing.assert_array_equal(getattr(one.noise, field.name), getattr(other.noise, field.name))
    np.testing.assert_array_equal(one.pred_probs, other.pred_probs)
    assert torch.equal(one.posterior, other.posterior)
    np.testing.assert_array_equal(one.precision_interval, other.precision_interval)
    for policy in ("all", "confident", "soft", "prune"):
        mine, its = (a.relabel(policy) for a in (one, other))
        np.testing.assert_array_equal(mine.labels, its.labels)
        np.testing.assert_array_equal(mine.targets, its.targets)
        np.testing.assert_array_equal(mine.kept, its.kept)
    assert (one.finding, one.policy, one.cost, one.n) == (other.finding, other.policy, other.cost, other.n)
    np.testing.assert_array_equal(one.classes, other.classes)


def test_a_loaded_audit_is_the_saved_one(plain, trained, path):
    plain.save(path)
    loaded = Audit.load(path)
    same(plain, loaded)
    assert loaded.settings == plain.settings
    again = Audit.load(path, trained)
    same(plain, again)
    np.testing.assert_array_equal(again.predict_scores(X[NEW]), plain.predict_scores(X[NEW]))
    assert again.predict(X[NEW]).tolist() == plain.predict(X[NEW]).tolist()


def test_loaded_audit_can_be_saved_again(personal, trained, path, tmp_path):
    personal.save(path)
    Audit.load(path).save(tmp_path / "again")
    with pytest.raises(InputError, match=r"views= \(brighter\), pool= \(halved\), inputs= \(standardised\)"):
        Audit.load(tmp_path / "again", trained)
    loaded = Audit.load(
        tmp_path / "again", trained, views=[brighter], pool=personal.reader.pool, inputs=standardised
    )
    same(personal, loaded)
    np.testing.assert_array_equal(loaded.predict_scores(X[NEW]), personal.predict_scores(X[NEW]))


def test_audit_without_network_refuses_predictions(plain, path):
    plain.save(path)
    loaded = Audit.load(path)
    with pytest.raises(InputError, match=r"loaded without its network: Audit\.load\(path, model\)"):
        loaded.predict(X[NEW])
    for repair in (loaded.edit_head, lambda: loaded.retrain(loaded.relabel("soft"))):
        with pytest.raises(InputError, match="holds no network and rows"):
            repair()
    assert loaded.example(0) is None


def test_missing_functions_are_named(personal, trained, path):
    personal.save(path)
    with pytest.raises(InputError, match=r"views= \(brighter\), pool= \(halved\), inputs= \(standardised\)"):
        Audit.load(path, trained)
    pool = personal.reader.pool
    with pytest.raises(InputError, match=r"pass again inputs= \(standardised\)$"):
        Audit.load(path, trained, views=[brighter], pool=pool)
    with pytest.raises(InputError, match=r"views= is not what .* \['brighter'\]"):
        Audit.load(path, trained, views=[brighter, standardised], pool=pool, inputs=standardised)
    with pytest.raises(InputError, match=r"pool= is not what .* \['fc1', '\*'\]"):
        Audit.load(path, trained, views=[brighter], pool="mean", inputs=standardised)
    with pytest.raises(InputError, match="inputs= goes with the network"):
        Audit.load(path, inputs=standardised)


def test_functions_that_were_not_used_are_refused(plain, trained, path):
    plain.save(path)
    with pytest.raises(InputError, match="inputs= is not what the audit was made with, None"):
        Audit.load(path, trained, inputs=standardised)


def test_named_views_are_restored_by_name(path):
    images = torch.rand(60, 1, 6, 6, generator=generator)
    y = torch.arange(60) % 3
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    found = audit(model, (images, y), policy="unseen_views", views={"mirror": "flip"}, controls=False)
    found.save(path)
    loaded = Audit.load(path, model)
    np.testing.assert_array_equal(loaded.predict_scores(images), found.predict_scores(images))


@pytest.mark.parametrize(
    ("other", "got"),
    [
        (network(12, 7), "fc2 (7)"),
        (network(12), "got input (6), fc1 (12), output (3)"),
        (MLP(5, hidden=(12, 8), num_classes=3), "mat1 and mat2 shapes"),
        (MLP(6, hidden=(12, 8), num_classes=4), "output (4)"),
    ],
)
def test_another_network_is_refused(plain, path, other, got):
    plain.save(path)
    with pytest.raises(InputError, match="not the one that was audited") as caught:
        Audit.load(path, other)
    assert got in str(caught.value)


def test_the_same_network_with_other_weights_is_refused(plain, trained, path):
    plain.save(path)
    with pytest.raises(InputError, match="the same layers and other weights"):
        Audit.load(path, network(12, 8))
    assert Audit.load(path, trained).predict(X[NEW]).tolist() == plain.predict(X[NEW]).tolist()


def test_model_of_wrong_type_is_refused(plain, path):
    plain.save(path)
    with pytest.raises(InputError, match=r"expected the network as an nn\.Module, got str"):
        Audit.load(path, "network")


@pytest.mark.parametrize(
    "probe", [*available(), MASC(noise=0.3), MASC(noise=np.full((3, 3), 0.1) + 0.7 * np.eye(3))]
)
def test_every_probe_is_restored(probe, path):
    features = {"layer": X[TRAIN]}
    found = audit_features(
        features,
        NOISY[TRAIN],
        policy="noisy_holdout",
        holdout=({"layer": X[HELD]}, NOISY[HELD]),
        probes=probe,
    )
    found.save(path)
    loaded = Audit.load(path)
    same(found, loaded)
    queries = {"layer": X[NEW]}
    np.testing.assert_array_equal(loaded.predict_scores(queries), found.predict_scores(queries))
    before, after = (a.findings.ensemble.members[0].probe for a in (found, loaded))
    assert repr(after) == repr(before)
    assert vars(after).keys() == vars(before).keys()


def test_an_audit_of_features_needs_no_network(trained, path):
    found = audit_features(
        {"layer": X[TRAIN]}, NOISY[TRAIN], policy="noisy_holdout", holdout=({"layer": X[HELD]}, NOISY[HELD])
    )
    found.save(path)
    with pytest.raises(InputError, match="an audit of features: it predicts from features"):
        Audit.load(path, trained)


class Own(NearestClassMean):
    """A probe that is not of the library."""


def test_probes_that_cannot_be_saved_are_refused_before_anything_is_written(trained, path):
    found = audited(trained, probes=[Own()], layers="fc1")
    with pytest.raises(InputError, match=r"'Own' on layer 'fc1', a .*Own cannot be stored"):
        found.save(path)
    assert list(path.parent.iterdir()) == []


def test_classes_that_cannot_be_saved_are_refused(trained, path):
    names = [object(), object(), object()]
    labels = [[names[k] for k in NOISY[rows]] for rows in (TRAIN, HELD)]
    found = audit(
        trained,
        (X[TRAIN], labels[0]),
        policy="noisy_holdout",
        holdout=(X[HELD], labels[1]),
        class_names=names,
        controls=False,
    )
    with pytest.raises(InputError, match=r"a builtins\.object cannot be stored"):
        found.save(path)


def damaged(blob):
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    tensors = safetensors.torch.load(blob)
    other = {**tensors, "0": tensors["0"] + 1}
    return {
        "empty": b"",
        "cut short": blob[: len(blob) // 2],
        "one byte": blob[:-9] + bytes([blob[-9] ^ 1]) + blob[-8:],
        "another number": safetensors.torch.save(other, header["__metadata__"]),
        "another kind": safetensors.torch.save(tensors, {"layerprobe": '{"kind": "weights"}'}),
        "no content": safetensors.torch.save(tensors, {"layerprobe": '{"kind": "layerprobe.audit.1"}'}),
    }


def test_a_damaged_file_is_refused_by_name(plain, path):
    plain.save(path)
    blob = path.read_bytes()
    for name, content in damaged(blob).items():
        (path.parent / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            Audit.load(path.parent / name)
    for name in ("missing", "."):
        with pytest.raises(DataError):
            Audit.load(path.parent / name)


def test_a_missing_folder_is_named(plain, tmp_path):
    with pytest.raises(DataError, match=r"folder .*nowhere does not exist"):
        plain.save(tmp_path / "nowhere" / "audit")


@pytest.mark.parametrize(
    "value",
    [
        np.array([("a", 1), "b", None], object),
        np.array([None, "x", 3, 0.5], object),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.arange(6.0).reshape(2, 3).T,
        np.array([], "U3"),
        {("a", 1): [1, ..., None, True], 2: float("inf")},
        torch.float16,
    ],
    ids=str,
)
def test_values_are_restored(value):
    tensors = {}
    back = unpack(json.loads(json.dumps(pack(value, tensors))), tensors)
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype
        assert back.flags.f_contiguous == value.flags.f_contiguous


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).view(3, 4).T,
        torch.arange(12.0).view(3, 4)[1:, 1:3],
        torch.ones(()).expand(2, 3),
        torch.zeros(0, 3),
        torch.tensor(2),
        torch.ones(3, dtype=torch.bool),
    ],
)
def test_strides_are_restored(tensor):
    tensors = {}
    back = unpack(pack(tensor, tensors), tensors)
    assert back.dtype == tensor.dtype
    assert back.stride() == tensor.stride()
    assert torch.equal(back, tensor)


def test_an_array_of_tuples_does_not_become_a_table():
    names = np.empty(2, object)
    names[:] = [("a", 1), ("b", 2)]
    assert unpack(pack(names, {}), {}).tolist() == names.tolist()


def test_tensors_that_share_memory_are_stored_apart():
    tensors, x = {}, torch.arange(4.0)
    one, other = unpack(pack([x, x[:2]], tensors), tensors)
    one += 1
    assert other.tolist() == [0, 1]
    assert len({t.untyped_storage().data_ptr() for t in tensors.values()}) == 2


@pytest.mark.parametrize(
    "packed",
    [
        {"dtype": "load"},
        {"view": "os.system"},
        {"object": "Popen", "state": {"dict": []}},
        {"array": {"name": "0", "type": "|O", "shape": [1], "order": "C"}},
        {"call": "print"},
    ],
    ids=str,
)
def test_a_crafted_file_cannot_name_anything_outside_the_tables(packed):
    with pytest.raises((KeyError, ValueError)):
        unpack(packed, {"0": torch.zeros(8, dtype=torch.uint8)})


@pytest.mark.parametrize("value", [brighter, object(), {1: {2}}, np.zeros((2, 2), object), torch.Size([2])])
def test_values_outside_the_tables_are_refused(value):
    with pytest.raises(InputError, match="cannot be stored"):
        pack(value, {})


def entries(packed, path=()):
    """Yield the path of every entry of a header."""
    yield path
    if isinstance(packed, dict | list):
        for key, value in packed.items() if isinstance(packed, dict) else enumerate(packed):
            yield from entries(value, (*path, key))


def replaced(packed, path, value):
    if not path:
        return value
    copied = dict(packed) if isinstance(packed, dict) else list(packed)
    copied[path[0]] = replaced(copied[path[0]], path[1:], value)
    return copied


def crafted(header, data, packed):
    """The file of a forger, whose checksum is right; the tensors stay."""
    digest = hashlib.sha256(json.dumps(packed, sort_keys=True).encode())
    for name in sorted(header.keys() - {"__metadata__"}):
        digest.update(data[slice(*header[name]["data_offsets"])])
    entry = json.dumps({"kind": "layerprobe.audit.3", "audit": packed, "sha256": digest.hexdigest()})
    text = json.dumps(header | {"__metadata__": {"layerprobe": entry}}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


NESTED = "x"
for _ in range(200):
    NESTED = {"list": [NESTED]}
FOREIGN = [
    "os.system",
    {"dtype": "load"},
    {"view": "flip"},
    {"view": "relu_"},
    {"object": "NetworkReader", "state": {"dict": []}},
    {"object": "Popen", "state": {"dict": []}},
    {"module": "os"},
    3,
    -1,
    float("inf"),
    10**30,
    {"tensor": {"name": "0", "shape": [10**12], "stride": [0]}},
    {"array": {"name": "0", "type": "<f8", "shape": [10**12], "order": "C"}},
    [],
    {},
    None,
    NESTED,
]


@pytest.mark.parametrize("kind", ["features", "network"])
def test_every_entry_of_a_crafted_file_is_checked(personal, path, kind):
    """Each entry gets foreign values in turn: one error of ours, or an audit that works."""
    found = personal
    if kind == "features":
        held = {"fc": X[HELD]}, NOISY[HELD]
        found = audit_features(
            {"fc": X[TRAIN]}, NOISY[TRAIN], policy="noisy_holdout", holdout=held, probes=["masc", "ridge"]
        )
    found.save(path)
    blob = path.read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    header, data = json.loads(blob[8:start]), blob[start:]
    packed = json.loads(header["__metadata__"]["layerprobe"])["audit"]
    path.write_bytes(crafted(header, data, packed))
    same(found, Audit.load(path))
    refused, count = [], 0
    for number, place in enumerate(entries(packed)):
        for step in range(3):
            path.write_bytes(
                crafted(header, data, replaced(packed, place, FOREIGN[(number + 6 * step) % 17]))
            )
            try:
                loaded = Audit.load(path)
            except DataError as error:
                refused.append(str(error))
                continue
            count += 1
            loaded.relabel("soft")
            repr(loaded.issues)
            if kind == "features":
                outputs = dict.fromkeys(loaded.findings.ensemble.layers, X[NEW])
                assert np.isfinite(loaded.predict_scores(outputs)).all()
    assert len(refused) > count
    assert all(path.name in message and "\n" not in message for message in refused)


def test_deeply_nested_header_is_refused(path):
    deep = '{"kind": "layerprobe.audit.3", "audit": ' + "[" * 100_000 + "]" * 100_000 + "}"
    path.write_bytes(safetensors.torch.save({"0": torch.zeros(1)}, {"layerprobe": deep}))
    with pytest.raises(DataError, match=path.name):
        Audit.load(path)
