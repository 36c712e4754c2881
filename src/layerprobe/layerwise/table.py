"""ProbeTable: tidy rows that print as a table of layers."""

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "ProbeTable"]

COLUMNS = ["layer", "probe", "fitted_on", "split", "labels", "accuracy", "components", "seconds"]


class ProbeTable(pd.DataFrame):
    """Tidy rows, one accuracy each; prints as a table of layers, draws itself with ``plot()``.

    Columns: layer; probe ("network" for the model's own output); fitted_on, the labels that the probe was
    fitted on; split ("train" or "test"); labels, which of them the accuracy is against; accuracy in [0, 1];
    components, the mean r_k of a subspace probe; seconds to fit the probe and predict the split, what several
    probes or sets of labels share counted for each of them.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame  # a part of the rows is a plain frame

    def __repr__(self) -> str:
        if not set(COLUMNS) <= set(self.columns):
            return repr(pd.DataFrame(self))
        split = "test" if (self["split"] == "test").any() else "train"
        rows = pd.DataFrame(self[self["split"] == split])
        rows["probe"] = (rows["probe"] + " on " + rows["fitted_on"]).where(
            rows["fitted_on"] != "", rows["probe"]
        )
        text = [f"ProbeTable: {len(self)} rows; accuracy on {split} data against"]
        for labels, part in rows.groupby("labels", sort=False):
            wide = part.pivot_table(index="layer", columns="probe", values="accuracy", sort=False)
            text += [f"{labels} labels", wide.map("{:.4f}".format, na_action="ignore").fillna("").to_string()]
        return "\n".join(text)

    def _repr_html_(self) -> str:
        return pd.DataFrame(self).to_html(index=False)

    def plot(self, probe: str | None = None, *, title: str = "") -> "Figure":  # type: ignore[override]
        """Draw one probe's accuracy over the layers; see :func:`layerprobe.figures.accuracy_over_layers`."""
        from layerprobe.figures import accuracy_over_layers

        drawn = probe or next((name for name in self["probe"] if name != "network"), "any")
        return accuracy_over_layers(pd.DataFrame(self), drawn, title=title)
