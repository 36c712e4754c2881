"""edit_head(): replace the last layer of a network by a linear probe, without training.

The weight edit of the follow-up study, arXiv 2603.19865.
"""

import copy
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from sklearn.base import clone
from torch import nn
from torch.nn.parameter import is_lazy

from layerprobe.errors import InputError
from layerprobe.layers import capture, list_layers
from layerprobe.layers.tracing import check_model
from layerprobe.probes import REGISTRY, LinearProbe, create
from layerprobe.probes.base import label_array
from layerprobe.utils.settings import default_settings

Bias: TypeAlias = Literal["probe", "keep", "zero"]


@default_settings()
def edit_head(
    model: nn.Module,
    train: Any,
    probe: str | LinearProbe = "velpic",
    bias: Bias = "probe",
    *,
    batch_size: int = 512,
) -> nn.Module:
    """Return a copy of a network whose last linear layer is a linear probe of the last hidden layer.

    The probe is fitted on the inputs of the last linear layer for the training data, in evaluation mode; its
    weights replace those of the layer. Nothing is trained.

    Parameters
    ----------
    model : nn.Module
        A network whose output (n, K) is that of an ``nn.Linear``; it is not changed. One output is the logit
        of the second of two classes. Of several linear layers in the output, the one called logits is edited.
    train : (x, y), DataLoader, Dataset or iterable of batches
        As for :func:`layerprobe.capture`, with labels 0..K-1, each at least once, since a class without rows
        has no direction.
    probe : str or LinearProbe
        "velpic", "ncm", "logistic", "logistic_adam", "lda", "ridge", "shrinkage_lda", or such a probe, which
        is cloned.
    bias : {"probe", "keep", "zero"}
        "probe": the bias of the probe, so that the edited network predicts as the probe does; it is zero for
        VeLPIC and the nearest class mean. "keep": the bias of the network.
    batch_size : int
        Rows of a batch cut from whole arrays.

    Returns
    -------
    nn.Module
        An edited deep copy with the training flags of `model`.

    Raises
    ------
    InputError
        If the network has no last linear layer, the labels do not fit, or the probe is not linear.

    Examples
    --------
    >>> import torch
    >>> from layerprobe.networks import MLP
    >>> x, y = torch.eye(4).repeat(5, 1), torch.arange(20) % 4
    >>> edited = edit_head(MLP(4, hidden=(16,), num_classes=4), (x, y), probe="ncm")
    >>> bool((edited(x).argmax(1) == y).all())
    True
    """
    check_model(model)
    fitted = linear_probe(probe)
    first = train
    if isinstance(train, Iterator):  # find_head uses up its first batch
        first = list(islice(train, 1))
        train = chain(first, train)
    if any(is_lazy(tensor) for tensor in chain(model.parameters(), model.buffers())):
        list_layers(model, first)  # initialises lazy modules, which cannot be copied
    edited = copy.deepcopy(model)
    head = find_head(edited, first)
    hook = head.register_forward_hook(lambda head, inputs, output: inputs[0])
    try:
        # with the hook, capturing the head gives its input; the name of the last hidden layer is not needed
        name = next((name for name, module in edited.named_modules() if module is head and name), "output")
        captured = capture(edited, train, name, batch_size=batch_size)
    finally:
        hook.remove()
    if captured.labels is None:
        raise InputError("the training data have no labels; give (x, y), or a loader of (x, y)")
    labels = label_array(captured.labels)
    check_every_class(labels, max(head.out_features, 2))
    set_head(head, fitted.fit(captured.outputs[name], labels), bias)
    return edited


def linear_probe(probe: str | LinearProbe) -> LinearProbe:
    """Return an unfitted linear probe by its name, or a clone of one; InputError if it is not linear."""
    candidate = create(probe) if isinstance(probe, str) else probe
    if not isinstance(candidate, LinearProbe):
        linear = [name for name, kind in REGISTRY.items() if issubclass(kind, LinearProbe)]
        raise InputError(
            f"only a linear probe can be a network's last layer, one of {', '.join(linear)}; got {probe!r}"
        )
    return clone(candidate)


def find_head(model: nn.Module, batch: Any) -> nn.Linear:
    """Return the linear layer that makes a network's output (n, K), found in one forward pass.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    batch : array, tuple, dict or DataLoader
        As for :func:`layerprobe.list_layers`.

    Raises
    ------
    InputError
        If there is no such layer.
    """
    listed = list_layers(model, batch)
    modules = dict(model.named_modules())
    head = model if isinstance(model, nn.Linear) else modules.get(listed.head or "")
    shape = next((row.shape for row in listed if row.name == listed.head), ())
    if not isinstance(head, nn.Linear) or shape != (head.out_features,):
        found = "not that of one layer" if listed.head is None else f"that of {listed.head!r}"
        raise InputError(
            "expected a network whose output (n, K) is that of one nn.Linear, called once; its output is "
            f"{found}. Wrap the network in a module that returns the linear layer's output"
        )
    own = dict(head.named_parameters(recurse=False))
    if "weight" not in own or (head.bias is not None and "bias" not in own):
        raise InputError(
            f"the weights of the last linear layer {listed.head!r} are computed from others "
            "(a parametrisation) and cannot be set; remove the parametrisation first"
        )
    return head


def check_bias(bias: object) -> None:
    """Raise an InputError unless `bias` is one of the options of `edit_head`."""
    if bias not in get_args(Bias):
        raise InputError(f"bias must be 'probe', 'keep' or 'zero', got {bias!r}")


def set_head(head: nn.Linear, fitted: LinearProbe, bias: Bias = "probe") -> None:
    """Set the weights of a linear layer, in place, to those of a fitted probe.

    Parameters
    ----------
    head : nn.Linear
        From d features to K classes, or to the logit of the second of two.
    fitted : LinearProbe
        Fitted on d features and K classes.
    bias : {"probe", "keep", "zero"}
        As for `edit_head`.

    Raises
    ------
    InputError
        If sizes differ, or the probe has a bias and the layer has none.
    """
    check_bias(bias)
    weight, own_bias = fitted.linear_
    if head.out_features == 1 and len(weight) == 2:
        weight, own_bias = weight[1:] - weight[:1], own_bias[1:] - own_bias[:1]
    if weight.shape != head.weight.shape:
        raise InputError(
            f"expected a probe of weights {tuple(head.weight.shape)}, as in the last linear layer; "
            f"{type(fitted).__name__} has {tuple(weight.shape)}"
        )
    if bias == "probe" and head.bias is None and own_bias.any():
        raise InputError(
            f"{type(fitted).__name__} has a bias and the network's last linear layer has none; "
            "bias='zero' leaves it out"
        )
    new = {"weight": weight}
    if head.bias is not None and bias != "keep":
        new["bias"] = own_bias if bias == "probe" else torch.zeros_like(own_bias)
    for name, values in new.items():  # the old parameters may be shared with another layer
        old = getattr(head, name)
        setattr(head, name, nn.Parameter(values.detach().to(old, copy=True), requires_grad=old.requires_grad))


def check_every_class(labels: np.ndarray, K: int) -> None:
    """Raise an InputError unless labels are 0..K-1, each at least once.

    Parameters
    ----------
    labels, K
        K is the number of the network's outputs.
    """
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= K:
        raise InputError(
            f"expected labels 0..{K - 1}, the positions of the network's outputs; "
            f"got {', '.join(map(repr, np.unique(labels)[:5].tolist()))}, ..."
        )
    missing = np.setdiff1d(np.arange(K), labels)
    if len(missing):
        raise InputError(
            f"expected training rows of every class 0..{K - 1}; none is of class "
            f"{', '.join(map(str, missing.tolist()))}. Add some, or remove these outputs from the network"
        )
