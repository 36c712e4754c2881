"""
Add an experiment
=================

An experiment of the paper is a function from a finished run to rows. A run is one network trained on one draw
of noisy labels; its layer outputs are computed once for all experiments. This one measures how sparse each
layer is: the share of units that are zero.
"""

# %%
# The function, and its entry in the registry. ``finished.outputs`` maps each layer to its outputs for the
# training and the test rows.

import tempfile

from matplotlib import pyplot as plt

from layerprobe.paper import RunSpec, execute
from layerprobe.paper.analysis import analyse, gather
from layerprobe.paper.experiments import register_experiment
from layerprobe.paper.rows import tidy


def sparsity(finished):
    """Return per layer the share of zeros, and the share of units that are zero for all training rows."""
    rows = []
    for layer, data in finished.outputs.items():
        zeros = data.train == 0  # (n, d)
        for metric, value in (("zeros", zeros.float().mean()), ("dead", zeros.all(0).float().mean())):
            rows.append({"experiment": "sparsity", "layer": layer, "metric": metric, "value": value})
    return tidy(rows)


register_experiment("sparsity", sparsity)

# %%
# Runs of the small pair ``mlp-digits`` at three degrees of noise. ``layerprobe paper train`` trains the same
# runs from a shell, for any pair, and ``analyse`` adds what is missing.

root = tempfile.mkdtemp()
specs = [RunSpec.of("mlp-digits", p, seed=0, subset=500, max_epochs=60) for p in (0.0, 0.4, 0.8)]
for spec in specs:
    execute(spec, root)
    analyse(spec, root, ["sparsity"])
rows = gather(specs, root)
zeros = rows[rows["metric"] == "zeros"]

# %%
# Networks that memorise noise use their units in another way than networks that need not.

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for (p, part), marker in zip(zeros.groupby("corruption"), "os^", strict=True):
    hidden = part[part["layer"] != "input"]
    ax.plot(hidden["layer"], 100 * hidden["value"], marker=marker, label=f"{100 * p:.0f} % redrawn")
ax.set(ylabel="zeros in %", xlabel="layer", title="Outputs that are zero, on the training rows")
ax.legend(frameon=False)
plt.show()
