"""The exception family: every error says what was expected, what came, and what to do."""

__all__ = [
    "DataError",
    "DegenerateWarning",
    "ExperimentError",
    "InputError",
    "LayerError",
    "LayerprobeError",
    "LayerprobeWarning",
    "ProcessError",
]


class LayerprobeError(Exception):
    """Base of every error that layerprobe raises on purpose."""


class InputError(LayerprobeError, ValueError):
    """An argument, an array or a label that cannot be used as it is."""


class LayerError(LayerprobeError, LookupError):
    """A layer that the model does not have, or that cannot be captured."""


class DataError(LayerprobeError, OSError):
    """A data set that is missing, incomplete or not what its publisher ships."""


class ExperimentError(LayerprobeError, RuntimeError):
    """An experiment that cannot be done on a run."""


class ProcessError(LayerprobeError, RuntimeError):
    """Another process of the same job ended, or did not answer in time."""


class LayerprobeWarning(UserWarning):
    """Base of every warning that layerprobe gives."""


class DegenerateWarning(LayerprobeWarning):
    """The answer is defined but carries little information (an empty class, saturated subspaces)."""
