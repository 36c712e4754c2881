"""Labelled rows that a user names on the command line: a path, or code of hers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerprobe.errors import InputError

if TYPE_CHECKING:
    from layerprobe.auditing.dataset.labelled import LabelledDataset

__all__ = ["load_rows", "require_folder"]


def load_rows(data: str, options: dict[str, Any]) -> "LabelledDataset":
    """Read a path or ``pkg.mod:name``; the options are those of `layerprobe.auditing.read_rows`."""
    from layerprobe.auditing.dataset.readers import read_rows
    from layerprobe.cli.user_code import is_reference, load_object

    source: Any = data
    if is_reference(data) and not Path(data).exists():
        found = load_object(data)
        source = found() if callable(found) else found
    return read_rows(source, **options)


def require_folder(out: Path) -> None:
    """Refuse a place that cannot become a folder before anything is done."""
    place = out.resolve()
    taken = next((path for path in (place, *place.parents) if path.exists() and not path.is_dir()), None)
    if taken:
        raise InputError(f"the results need a folder, but {taken} is a file; choose another by --out")
