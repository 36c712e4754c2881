"""Weights that were trained elsewhere, as finished runs: the released networks of the paper."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from layerprobe.errors import DataError, InputError
from layerprobe.networks import load_published, read_state_dict
from layerprobe.networks.weights import (
    check_finite,
    fitting_names,
    layers_with_weights,
    names_by_shape,
    without_prefix,
)
from layerprobe.runs.data import data_record, run_data
from layerprobe.runs.folders import (
    MODEL,
    Location,
    build_network,
    is_done,
    mark_done,
    read_record,
    run_folder,
    write_record,
)
from layerprobe.runs.leases import acquire
from layerprobe.runs.specs import RunSpec
from layerprobe.training import provenance, save_weights

FILE = re.compile(r"(\d+(?:\.\d+)?)_run(\d+)(?:\.weights)?\.(?:pth|pt|safetensors)")
NAMES = "names.json"


def released_files(folder: Location) -> dict[tuple[float, int], Path]:
    """Return the files of weights in a folder by corruption degree and number of the run.

    Raises
    ------
    DataError
        If the folder has no file of the form ``<p>_run<i>.pth`` (.pt, .safetensors), or two for one run.
    """
    found: dict[tuple[float, int], Path] = {}
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
        if parts := FILE.fullmatch(path.name):
            cell = float(parts[1]), int(parts[2])
            if cell in found:
                raise DataError(
                    f"{folder} has two files of one run, {found[cell].name} and {path.name}: remove one"
                )
            found[cell] = path
    if not found:
        raise DataError(
            f"{folder}: expected a folder with files of weights as 0.4_run1.pth (corruption degree, number "
            "of the run; .pth, .pt or .safetensors), found none"
        )
    return found


def import_weights(
    folder: Location, specs: Collection[RunSpec], root: Location, *, data_root: Location | None = None
) -> None:
    """Write released weights into the folders of runs, which are then done.

    All files are checked before the first is written. Layers are matched by the names of our network, by
    those of the published code, or by shapes where each layer has shapes of its own; ``names.json`` in the
    folder, a mapping of our layer names to those of the files, replaces all of these.

    Parameters
    ----------
    folder, specs, root, data_root
        Files as for `released_files`, and specs with the protocol and the weights "published"; their seed is
        the number of the run.

    Raises
    ------
    DataError
        If files are missing or cannot be read, a run was imported from other weights before, or the data set
        is missing.
    InputError
        If weights do not fit the network or are not finite.
    """
    files = released_files(folder)
    missing = [spec for spec in specs if (spec.corruption, spec.seed) not in files]
    if missing:
        needed = ", ".join(f"{spec.corruption:g}_run{spec.seed}" for spec in missing)
        raise DataError(f"{folder}: expected weights of every run and degree shown, {needed} missing")
    names = _names(Path(folder))
    loaded = {spec: _load(files[spec.corruption, spec.seed], spec, names) for spec in specs}  # type: ignore[index]
    done = [spec for spec in loaded if is_done(run_folder(root, spec))]
    for spec in done:
        place, how = run_folder(root, spec), loaded.pop(spec)[1]
        if read_record(place).get("weights", {}).get("sha256") != how["sha256"]:
            raise DataError(f"{place} has other weights than {how['file']}; name another root")
    for spec, (model, how) in loaded.items():
        place = run_folder(root, spec)
        data = data_record(*run_data(spec, data_root))
        place.mkdir(parents=True, exist_ok=True)
        with acquire(place):
            record = {"spec": spec.to_dict(), "key": spec.key, "data": data, "sessions": [], "weights": how}
            write_record(place, {**record, **provenance()})
            save_weights(place / MODEL, model.state_dict(), {"spec": spec.to_dict(), "weights": how})
            mark_done(place)


def _names(folder: Path) -> dict[str, str] | None:
    path = folder / NAMES
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text("utf-8"))
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ValueError("it is no mapping of names to names")
        return names
    except ValueError as error:
        raise DataError(
            f"{path}: expected a JSON mapping of our layer names to those of the files; {error}"
        ) from error


def _load(path: Path, spec: RunSpec, names: Mapping[str, str] | None) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network with the weights of a file, and the record of how they were read."""
    model = build_network(spec)
    given = read_state_dict(path)
    check_finite(given, path.name)
    weights = without_prefix(model, given)
    if names is None:
        names = _fitting(model, weights)
    prefix = next(iter(given), "").removesuffix(next(iter(weights), ""))
    names = {layer: other.removeprefix(prefix) for layer, other in names.items()}
    try:
        load_published(model, weights, names)
    except InputError as error:
        raise InputError(
            f"{path.name}: {error}, in {NAMES} beside the file; the layers of the model are "
            f"{', '.join(layers_with_weights(model.state_dict()))}"
        ) from error
    with path.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    return model, {"source": "published", "file": path.name, "sha256": checksum, "names": dict(names)}


def _fitting(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the layer names by which the weights fit; if none do, those that fit most layers."""
    names, there = fitting_names(model, weights), layers_with_weights(weights)
    if all(names.get(layer, layer) in there for layer in layers_with_weights(model.state_dict())):
        return names
    return names_by_shape(model, weights) or names
