"""The command `layerprobe`. Heavy packages are imported when a command runs, so that help is fast."""

import contextlib
import io
import json as jsonlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from layerprobe.cli import paper
from layerprobe.cli.audit import audit_labels
from layerprobe.cli.commands import COMPLETION, Commands, readable_options, wrapped
from layerprobe.cli.jobs import refuse_alone
from layerprobe.cli.output import (
    Termination,
    drop_output,
    print_error,
    refuse_control,
    sigterm_ends,
    warnings_in_one_line,
)
from layerprobe.cli.probe import probe_layers
from layerprobe.cli.reproduce import reproduce_results
from layerprobe.cli.review import measure_review
from layerprobe.cli.user_code import user_error, user_line
from layerprobe.errors import LayerprobeError
from layerprobe.utils.terminal import say

__all__ = ["main"]

DESCRIPTION = """Find the layer of a trained network that predicts better than its head.

For help on one command: layerprobe COMMAND --help. For the version: layerprobe --version.
For completion in a shell: layerprobe --tyro-print-completion bash (or zsh, tcsh)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, without the name of the command. Default: those of the process.

    Returns
    -------
    int
        0: success. 1: a part failed, which stderr names. 2: wrong input, which one message on stderr
        describes. 130: interrupted. 141: the reader of the output has ended. 143: terminated.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with sigterm_ends(), warnings_in_one_line():
            code = _run(arguments)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader of the output, as head, has ended
        drop_output()
        return 141
    except KeyboardInterrupt as stop:  # also while the options are read
        print_error("terminated" if isinstance(stop, Termination) else "interrupted")
        return 143 if isinstance(stop, Termination) else 130


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        say(f"layerprobe {version('layerprobe')}")
        return 0
    if refusal := refuse_alone(arguments) or refuse_control(arguments):
        print_error(refusal)
        return 2
    commands = _commands()
    if said := commands.mistake(arguments):
        print_error(said)
        return 2
    path, node = commands.named(arguments)
    if isinstance(node, Commands) and COMPLETION not in arguments:
        commands, arguments = _commands(brief=True), [*path, "--help"]
    shown, refused = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(refused):
            call = commands.cli(
                prog="layerprobe",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit:  # after the help, or for wrong arguments
        if shown.getvalue():
            say(shown.getvalue() if COMPLETION in arguments else wrapped(shown.getvalue()).rstrip())
        if refused.getvalue():
            print_error(commands.refusal(arguments, refused.getvalue()))
        return 2 if refused.getvalue() else 0
    try:
        call()
    except SystemExit as end:  # a part failed, or the user's code ended the program
        if isinstance(end.code, str):
            print_error(end.code)
        return end.code if isinstance(end.code, int) else 1
    except BrokenPipeError:
        raise
    except Exception as error:
        known = isinstance(error, LayerprobeError)
        said = "" if known else user_error(error)
        place = user_line(error.__cause__) if known and ", line " not in str(error) else ""
        if not (said or known or isinstance(error, OSError)):
            raise
        print_error(f"your code failed: {said}" if said else f"{error} {place}".rstrip())
        return 2
    return 0


@readable_options
def demo(
    *,
    corruption: float = 0.6,
    seeds: int = 3,
    variance: float = 0.99,
    out: Path = Path("demo"),
    json: bool = False,
) -> None:
    """Train networks on noisy labels and probe every layer.

    MLPs memorise handwritten digits with partly redrawn training labels. Then MASC and all other probes are
    fitted on each layer, with the noisy and with the true labels. Needs no download and about a minute on two
    cores. The labels of the first network are also audited, without the true ones.
    Writes rows.csv, history.csv, figure.png, figure.svg, report.html and run.json, and audit.html and
    review.html of the audit.

    Args:
        corruption: Probability in [0, 1] that a training label is redrawn from all ten classes.
        seeds: Number of networks. Each has its own noise, initial weights and batch order.
        variance: Share in (0, 1] of the variance of each class that the subspaces of MASC keep.
        out: Folder for the results. Only the files named above are replaced in it.
        json: Print the results as JSON on stdout, and nothing else there.
    """
    from layerprobe.demo import Spec, run_demo

    result = run_demo(Spec(corruption, seeds, variance), out)
    if json:
        say(jsonlib.dumps(result.summary(), indent=2))
    else:
        result.show(out)


@readable_options
def fetch_data(
    name: Annotated[str, Positional, arg(metavar="NAME")],
    root: Annotated[Path | None, arg(metavar="FOLDER")] = None,
) -> None:
    """Download a data set and verify its checksums.

    Verified files are not downloaded again.

    Args:
        name: mnist, fashion-mnist, cifar-10, cifar-100 or tiny-imagenet.
        root: Folder of all data sets. Without it: LAYERPROBE_DATA, or else the cache folder of the user.
    """
    from layerprobe.data import fetch
    from layerprobe.utils.files import require_folder

    if root is not None:
        require_folder(root)
    say(fetch(name, root, progress=True))


def _commands(*, brief: bool = False) -> Commands:
    """Return every command; the signature and docstring of its function are its help."""
    app = Commands(brief=brief)
    app.add("demo", demo)
    app.add("audit", audit_labels)
    app.add("review", measure_review)
    app.add("probe", probe_layers)
    app.group("data", "Download data sets.").add("fetch", fetch_data)
    group = app.group("paper", "Networks, tables and figures of the paper.")
    for function in (paper.train, paper.status, paper.analyse, paper.tables, paper.figures):
        group.add(function.__name__, function)
    app.add("reproduce", reproduce_results)
    return app
