"""Which tables there are: a title, what each needs, and the function that makes it of rows."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from layerprobe.paper.tables.best_layers import natural, table1, table5
from layerprobe.paper.tables.controls import controls, edits
from layerprobe.paper.tables.layers import components, latent, layers, similarity
from layerprobe.paper.tables.probes import cost, probes
from layerprobe.paper.tables.relabelling import retrained_masc, table6, table7, table8
from layerprobe.paper.tables.sensitivity import sensitivity, thresholds
from layerprobe.paper.tables.training import table2, table3

__all__ = ["TABLES", "Table"]


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes
    ----------
    title : str
        What it shows, in a sentence without a full stop.
    needs : tuple of str
        Names of the experiments whose rows it reads.
    build : callable
        From rows (columns `layerprobe.paper.rows.COLUMNS`) and histories (the run's columns and one row an
        epoch) to the table; either may be empty. Columns pair, corruption, variant and scale come first.
        Accuracies and gains are shares, differences are in points.
    needs_history : bool
        Whether it reads the histories.
    """

    title: str
    needs: tuple[str, ...]
    build: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]
    needs_history: bool = False


BOTH = ("noisy_subspaces", "true_subspaces")

# fmt: off
TABLES: dict[str, Table] = {
    "table1": Table("Table 1: test accuracy of the network and of MASC at its best layer, noisy subspaces",
                    ("noisy_subspaces",), table1),
    "table2": Table("Table 2: training accuracy in the last epoch, on the labels learnt and on the true ones",
                    (), table2, needs_history=True),
    "table3": Table("Table 3: test accuracy after the last epoch", (), table3, needs_history=True),
    "table5": Table("Table 5: test accuracy of the network and of MASC at its best layer, true subspaces",
                    ("true_subspaces",), table5),
    "table6": Table("Table 6: what relabelling by MASC corrects and breaks", ("retraining",), table6),
    "table7": Table("Table 7: test accuracy before and after retraining on labels by noisy subspaces",
                    ("retraining",), table7),
    "table8": Table("Table 8: test accuracy before and after retraining on labels by true subspaces",
                    ("retraining",), table8),
    "layers": Table("MASC with noisy subspaces on every layer, test accuracy", ("noisy_subspaces",), layers),
    "thresholds": Table("MASC with noisy subspaces at its best layer for each variance threshold; published "
                        "numbers are of one run", ("noisy_subspaces",), thresholds),
    "probes": Table("Every probe at its best layer, the input left out, test accuracy", ("probes",), probes),
    "components": Table("Components that hold 99 % of the variance, mean over classes", BOTH, components),
    "latent": Table("Latent memorisation: MASC on networks trained on true labels, with subspaces of labels "
                    "corrupted afterwards", ("latent_memorisation",), latent),
    "controls": Table("Test accuracy of controls: the untrained network under MASC, the best epoch, the last "
                      "epoch, and MASC at its best layer", ("controls", *BOTH), controls),
    "sensitivity": Table("Spread of test accuracy where one seed alone varies, and where all do",
                         ("noisy_subspaces",), sensitivity),
    "cost": Table("Cost of fitting a probe on one layer and of predicting all test rows", ("cost",), cost),
    "retrained_masc": Table("MASC once more, on the layers of the retrained network, test accuracy",
                            ("retraining",), retrained_masc),
    "similarity": Table("Likeness of the memorised and the generalised network, layer by layer",
                        ("similarity",), similarity),
    "edits": Table("Accuracy of networks whose last layer was replaced by a probe",
                   ("weight_edit", "noisy_subspaces"), edits),
    "natural": Table("Human label noise: the network and MASC at its best layer, test accuracy",
                     BOTH, natural),
}
# fmt: on
