"""Output of the command line: messages, JSON, CSV files for spreadsheets; the end of a command."""

import ast
import contextlib
import json
import math
import os
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layerprobe.errors import LayerprobeWarning
from layerprobe.utils.terminal import CONTROL, say

# Python arguments whose names in a message become the options of the same name.
ARGUMENTS = """policy holdout trusted test views layers pool probes variances inputs resize path_column
text_column label_column class_names true_labels batch_size device memory seed jobs checkpoints strip_prefix
subset test_subset max_epochs learning_rate edit_epoch root"""
# Advice of the Python API, and the same advice on the shell.
PHRASES = {
    r"list_layers\([^()]*\) shows": "--layers '*' --dry-run shows",
    r", for example inputs=lambda .*$": ", as --inputs PKG.MOD:NAME",
    r"give them as labels=, or as \(x, y\)": "name their column by --label-column, or give x and y",
    r"by root= in Python, --data on the command line,": "by --data (--root of data fetch)",
    r"raise max_iter=, or regularise more by a smaller C=": "leave it out of --probes, or use it in Python",
}


def print_error(message: object) -> None:
    """Print one message of the command on stderr."""
    say(f"layerprobe: {shell_spelling(' '.join(str(message).split()))}", error=True)


def shell_spelling(message: str) -> str:
    """Return a message with shell options: ``views=('flip', 'left')`` becomes ``--views flip left``.

    A name with an underscore is replaced also without the equals sign, unless it is part of a path.
    """
    names = ARGUMENTS.split()
    compound = "|".join(name for name in names if "_" in name)
    value = r"\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\]|'[^']*'|\"[^\"]*\"|-?\d+(?:\.\d+)?(?:e-?\d+)?|True"
    pattern = rf"(?<![\w./:'\"-])(?:({'|'.join(names)})=({value})?|({compound})(?![\w./:'\"=]))"

    def option(match: re.Match[str]) -> str:
        name, given, bare = match.groups()
        try:
            found = ast.literal_eval(given or "()")
            words = [
                shlex.quote(str(word)) for word in (found if isinstance(found, list | tuple) else [found])
            ]
        except (ValueError, SyntaxError):  # names of values, as (height, width)
            words = re.findall(r"[^\s,'\"()]+", given)
        return " ".join(["--" + (name or bare).replace("_", "-"), *(() if given == "True" else words)])

    for python, shell in PHRASES.items():
        message = re.sub(python, shell, message)
    return re.sub(pattern, option, message)


class Termination(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: its processes end, and it says how to go on."""


@contextlib.contextmanager
def sigterm_ends() -> Iterator[None]:
    """Raise `Termination` at SIGTERM while the block runs; a second SIGTERM does not disturb the end."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Termination

    before = signal.getsignal(signal.SIGTERM)
    try:
        if before != signal.SIG_IGN:
            signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Print each warning in one line on stderr."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        kind = "warning" if issubclass(category, LayerprobeWarning) else category.__name__
        print_error(f"{kind}: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def drop_output() -> None:
    """Discard the rest of the output: its reader has ended, and Python would fail to write it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def refuse_control(arguments: Sequence[str]) -> str:
    """Return an error for control characters in arguments, which messages would repeat; empty for none."""
    wrong = [word for word in arguments if CONTROL.search(word.replace("\t", ""))]
    return f"expected arguments without control characters, got {wrong[0]}" if wrong else ""


def as_json(value: Any) -> str:
    """Return a document as JSON; NumPy and torch values become Python's, NaN and infinity become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays, tensors and scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
