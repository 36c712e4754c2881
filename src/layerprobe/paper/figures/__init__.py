"""Every figure of the paper and of our own experiments, drawn from rows alone.

A new figure is one entry of `FIGURES`: a title and a caption, the experiments whose rows it needs, and a
function from these rows to a figure. `sheets.py` is the look of all, `choosing.py` how rows become lines.
"""

from functools import partial

from layerprobe.paper.figures import over_epochs, over_layers, probes, retraining
from layerprobe.paper.figures.spec import FigureSpec

__all__ = ["FIGURES", "FigureSpec"]

_NOISY, _TRUE, _RETRAINING = ("noisy_subspaces",), ("true_subspaces",), ("retraining",)
_OWN = "Dashed, hollow: the network itself."
_BEST = (
    "Best layer: that of the highest mean test accuracy, so an upper bound where there are no test labels."
)
_EPOCH = "Dashed, hollow: the network at its last epoch, and at that of its highest test accuracy."
_CLASSES = (
    "of a class's subspace at 99 % of its variance, over the layers: mean over classes, and their range."
)
_AFTER = (
    "Accuracy on the 80 % of the test data that chose neither layer nor epoch, by corruption degree: MASC at "
    "the layer that the other 20 % chose; the network before and after it was retrained on MASC's labels, at "
    "most 30 epochs with early stopping. Where the subspaces of a small training set give every point its "
    "own label back there is nothing to learn from them: see Table 6."
)
_EPOCHS = "after each of ten epochs of retraining without early stopping; epoch 0 is the network before."

FIGURES: dict[str, FigureSpec] = {
    spec.name: spec
    for spec in (
        FigureSpec(
            "figure2",
            "Noisy subspaces: test accuracy of MASC",
            f"Test accuracy of MASC over the layers, subspaces from the labels trained on. {_OWN}",
            _NOISY,
            partial(over_layers.subspaces, fitted_on="noisy"),
        ),
        FigureSpec(
            "figure3",
            "True subspaces: test accuracy of MASC",
            f"Test accuracy of MASC over the layers, subspaces from the true training labels. {_OWN}",
            _TRUE,
            partial(over_layers.subspaces, fitted_on="true"),
            also=_NOISY,
        ),
        FigureSpec(
            "figure4",
            "Retraining on labels from noisy subspaces",
            _AFTER,
            _RETRAINING,
            partial(retraining.before_and_after, fitted_on="noisy"),
        ),
        FigureSpec(
            "figure12",
            "Noisy subspaces: accuracies of MASC on training and test data",
            f"MASC over the layers, subspaces from the labels trained on. {_OWN}",
            _NOISY,
            partial(over_layers.subspaces_in_full, fitted_on="noisy"),
        ),
        FigureSpec(
            "figure13",
            "True subspaces: accuracies of MASC on training and test data",
            f"MASC over the layers, subspaces from the true training labels. {_OWN}",
            _TRUE,
            partial(over_layers.subspaces_in_full, fitted_on="true"),
            also=_NOISY,
        ),
        FigureSpec(
            "figure15",
            "Noisy subspaces: components per class",
            f"Number of components {_CLASSES}",
            _NOISY,
            partial(over_layers.components, fitted_on="noisy"),
        ),
        FigureSpec(
            "figure17",
            "True subspaces: components per class",
            f"Number of components {_CLASSES}",
            _TRUE,
            partial(over_layers.components, fitted_on="true"),
        ),
        FigureSpec(
            "figure27",
            "Retraining on labels from true subspaces",
            _AFTER,
            _RETRAINING,
            partial(retraining.before_and_after, fitted_on="true"),
        ),
        FigureSpec(
            "figure28",
            "Retraining, noisy subspaces: evaluation accuracy by epoch",
            f"Accuracy on 80 % of the test data {_EPOCHS}",
            _RETRAINING,
            partial(retraining.epoch_by_epoch, fitted_on="noisy", split="evaluation"),
        ),
        FigureSpec(
            "figure29",
            "Retraining, true subspaces: evaluation accuracy by epoch",
            f"Accuracy on 80 % of the test data {_EPOCHS}",
            _RETRAINING,
            partial(retraining.epoch_by_epoch, fitted_on="true", split="evaluation"),
        ),
        FigureSpec(
            "figure30",
            "Retraining, noisy subspaces: training accuracy by epoch",
            f"Accuracy on the training data against their true labels {_EPOCHS}",
            _RETRAINING,
            partial(retraining.epoch_by_epoch, fitted_on="noisy", split="train"),
        ),
        FigureSpec(
            "figure31",
            "Retraining, true subspaces: training accuracy by epoch",
            f"Accuracy on the training data against their true labels {_EPOCHS}",
            _RETRAINING,
            partial(retraining.epoch_by_epoch, fitted_on="true", split="train"),
        ),
        FigureSpec(
            "latent",
            "Latent memorisation: labels corrupted after training",
            "MASC on the layers of the generalised network, which learnt clean labels; its subspaces are "
            "from labels corrupted only afterwards, by their degree.",
            ("latent_memorisation",),
            over_layers.latent,
        ),
        FigureSpec(
            "thresholds",
            "Test accuracy of MASC at its best layer, by variance threshold",
            f"From one component a class to 99.9 % of the variance. {_BEST}",
            _NOISY,
            probes.thresholds,
            also=_TRUE,
        ),
        FigureSpec(
            "probes",
            "Test accuracy of every probe at its best layer",
            f"Fitted on noisy and on true labels, the input left out. {_BEST} {_EPOCH}",
            ("probes", "controls"),
            probes.probes,
        ),
        FigureSpec(
            "cost",
            "Cost of fitting and predicting, by probe and layer",
            "Measured seconds, and FLOPs by formula, for all training and all test rows; means over degrees.",
            ("cost",),
            over_layers.cost,
        ),
        FigureSpec(
            "controls",
            "Controls: untrained networks and the best epoch",
            f"MASC on the trained and on the untrained network, the input left out. {_BEST} {_EPOCH}",
            ("noisy_subspaces", "controls"),
            probes.controls,
            also=_TRUE,
        ),
        FigureSpec(
            "gains",
            "MASC at its best layer against the network itself",
            f"Table 1 as a picture, the input among the layers. {_BEST} {_EPOCH} Grey, hollow, where given: "
            "published numbers.",
            ("noisy_subspaces", "true_subspaces", "controls"),
            probes.gains,
            published=True,
        ),
        FigureSpec(
            "similarity",
            "Similarity of memorised and generalised networks",
            "Over the layers, by corruption degree: linear CKA of the layer outputs on the test data, and "
            "mean cosine of the principal angles between class subspaces. Dashed, hollow: by chance.",
            ("similarity",),
            over_layers.similarity,
        ),
        FigureSpec(
            "dynamics",
            "Test accuracy over the epochs of training",
            "The network, and probes fitted on the noisy labels, each at its best hidden layer at the last "
            "epoch. Epoch 0 is the untrained network.",
            ("dynamics",),
            over_epochs.dynamics,
        ),
        FigureSpec(
            "natural",
            "Labels that people gave: test accuracy of MASC",
            f"Test accuracy over the layers, by annotation; p = 0: the same network on clean labels. {_OWN}",
            ("noisy_subspaces", "true_subspaces"),
            over_layers.human,
        ),
        FigureSpec(
            "midway",
            "Training with an edit of the last layer on the way",
            "Test accuracy during training on corrupted labels. At the edit the last layer becomes a probe "
            "of the last hidden one, fitted on the same labels, and the optimiser starts anew; the epoch "
            "after it is the first that shows it.",
            (),
            over_epochs.midway,
            history=True,
        ),
        FigureSpec(
            "history",
            "Training histories",
            "Accuracies during training. A network that has stopped keeps its last accuracies.",
            (),
            over_epochs.histories,
            history=True,
        ),
    )
}
