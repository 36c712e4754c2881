"""The paper's experiments: pairs of network and data set, and runs that survive whatever interrupts them."""

from layerprobe.paper.folders import Run, build_network, load_model, read_run, run_folder
from layerprobe.paper.grid import train_grid
from layerprobe.paper.locking import BusyError
from layerprobe.paper.midway import Edit
from layerprobe.paper.overview import status
from layerprobe.paper.pairs import PAIRS, Pair, pair
from layerprobe.paper.runs import execute
from layerprobe.paper.specs import Protocol, RunSpec, run_data
from layerprobe.paper.together import execute_together

__all__ = [
    "PAIRS",
    "BusyError",
    "Edit",
    "Pair",
    "Protocol",
    "Run",
    "RunSpec",
    "build_network",
    "execute",
    "execute_together",
    "load_model",
    "pair",
    "read_run",
    "run_data",
    "run_folder",
    "status",
    "train_grid",
]
