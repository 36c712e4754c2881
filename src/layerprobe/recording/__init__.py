"""Records of a training: margins and probabilities per row, hold-out accuracy per epoch, memorisation.

START HERE: `history.py`, the recorder.
"""

from layerprobe.recording.history import History, HistoryEpoch
from layerprobe.recording.memorisation import Onset, memorisation_onset

__all__ = ["History", "HistoryEpoch", "Onset", "memorisation_onset"]
