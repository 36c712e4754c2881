"""The paper: pairs of network and data set, runs that survive interruptions, experiments on them."""

from layerprobe.paper.pairs import PAIRS
from layerprobe.runs.data import run_data
from layerprobe.runs.execution import execute, execute_together
from layerprobe.runs.folders import Run, build_network, load_model, read_run, run_folder
from layerprobe.runs.grid import train_grid
from layerprobe.runs.leases import BusyError
from layerprobe.runs.pairs import Pair, pair, register_pair
from layerprobe.runs.specs import Edit, Protocol, RunSpec
from layerprobe.runs.states import status

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
    "register_pair",
    "run_data",
    "run_folder",
    "status",
    "train_grid",
]
