"""Exceptions and warnings. Each message states what was expected, what was given, and what to do."""


class LayerprobeError(Exception):
    """Base class of the errors that layerprobe raises."""


class InputError(LayerprobeError, ValueError):
    """Raised for an invalid argument, array or label."""


class MissingRowsError(InputError):
    """Raised for a table or figure without rows to show. The message names the experiments or runs to add."""


class LayerError(LayerprobeError, LookupError):
    """Raised for a layer that the model does not have, or that cannot be captured."""


class DataError(LayerprobeError, OSError):
    """Raised for a file or data set that is missing, incomplete or different from the published one."""


class ExperimentError(LayerprobeError, RuntimeError):
    """Raised for an experiment that is not possible on a run."""


class ProcessError(LayerprobeError, RuntimeError):
    """Raised if another process of the same job ended, or did not answer in time."""


class LayerprobeWarning(UserWarning):
    """Base class of the warnings of layerprobe."""


class DegenerateWarning(LayerprobeWarning):
    """The result is defined but not informative, for example for an empty class or saturated subspaces."""
