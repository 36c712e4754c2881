"""Options that the commands audit and probe share, and the network and data that they name."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layerprobe.cli.commands import readable_options
from layerprobe.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from layerprobe.auditing.dataset.labelled import LabelledDataset

MODEL = (
    "PKG.MOD:NAME of a torch.nn.Module, or of a class or function that returns one; literal arguments may "
    "follow, as in 'models:Net(10, width=64)'."
)
DATA = (
    "The training data with the labels that the network was trained on: a folder with one subfolder of "
    "images per class; a .csv file with the columns path and label, text and label, or label and numbers in "
    "all other columns; an .npz file with the arrays x and y; a folder written by save_to_disk of Hugging "
    "Face datasets; or PKG.MOD:NAME of a data set, or of a function that returns one."
)


@readable_options
@dataclass(frozen=True)
class NetworkOptions:
    """Options for reading a network and its data.

    Attributes
    ----------
    weights
        The state_dict of the model: a safetensors file, a file of torch.save, or a checkpoint of Lightning.
        Without it the model is used as --model gives it.
    strip_prefix
        Prefix of the names in the file of weights, for example model. in checkpoints of Lightning.
    layers
        Names or patterns of layers. Without it: the outputs of all nonlinearities.
    pool
        How the positions or tokens of a layer become one feature vector.
    inputs
        PKG.MOD:NAME of a function from a list of texts, or from uint8 pixels (b, h, w[, 3]), to the input of
        the model. Needed for texts. Without it pixels become (b, 1 or 3, h, w) in [0, 1].
    resize
        Resize images to this height and width.
    path_column
        The column of a .csv file with the paths of images.
    text_column
        The column with the texts.
    label_column
        The column with the labels.
    class_names
        Names of the classes in the order of the network's outputs. Needed if the sorted
        order of the names is another one.
    batch_size
        Rows per batch.
    device
        Device of the model, for example cuda or cuda:1. Without it the model stays where it is made.
    dry_run
        Compute and write nothing; print what would be done and how much memory it needs.
    json
        Print the results as JSON on stdout, and nothing else there.
    """

    weights: Path | None = None
    strip_prefix: str = ""
    layers: tuple[str, ...] = ()
    pool: Literal["mean", "max", "first", "last"] | None = None
    inputs: str | None = None
    resize: tuple[int, int] | None = None
    path_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    class_names: tuple[str, ...] = ()
    batch_size: int = 512
    device: str | None = None
    dry_run: bool = False
    json: bool = False

    @property
    def selected_layers(self) -> list[Any] | None:
        """The layers as `layerprobe.probe` takes them: "..." means the default ones."""
        return [... if name == "..." else name for name in self.layers] or None

    def load_model(self, reference: str) -> "nn.Module":
        """Return the network of ``pkg.mod:name`` with its weights on its device.

        Raises
        ------
        InputError
            If the object is no nn.Module, the weights are of another network, or the device cannot be used.
        DataError
            If the weights cannot be read.
        """
        import torch

        from layerprobe.cli.user_code import is_model, load_object
        from layerprobe.networks import load_state

        model = load_object(reference, call=True)
        if not is_model(model):
            raise InputError(f"{reference}: expected a torch.nn.Module, got {type(model).__name__}")
        if self.weights is not None:
            load_state(model, self.weights, strip_prefix=self.strip_prefix or None)
        elif self.strip_prefix:
            raise InputError("--strip-prefix is for the names in a file of weights; add --weights")
        if self.device is None:
            return model
        try:
            return model.to(torch.device(self.device))
        except (RuntimeError, AssertionError) as error:  # unknown, or not supported by this build of torch
            raise InputError(
                f"--device {self.device} cannot be used: {str(error).splitlines()[0]}; "
                "leave it out or pass cpu"
            ) from error

    def load_rows(self, place: str, model: "nn.Module | None") -> "LabelledDataset":
        """Read labelled data for a model.

        Parameters
        ----------
        place : str
            A path or ``pkg.mod:name``.
        model : nn.Module or None
            None for rows that are only shown.
        """
        from layerprobe.auditing.dataset.labelled import read_rows, without_model
        from layerprobe.cli.user_code import is_reference, load_object

        inputs = without_model if model is None else None
        if self.inputs is not None:
            inputs = load_object(self.inputs)
        own = is_reference(place) and not Path(place).exists()
        return read_rows(
            load_object(place, call=True) if own else place,
            path_column=self.path_column,
            text_column=self.text_column,
            label_column=self.label_column,
            inputs=inputs,
            batch_size=self.batch_size,
            model=model,
            resize=self.resize,
        )


DEFAULTS = NetworkOptions()
