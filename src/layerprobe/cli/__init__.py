"""The command `layerprobe`. Nothing heavy is imported before a command runs, so that help is quick."""

import json as jsonlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from layerprobe.cli.audit import add_audit
from layerprobe.cli.jobs import refuse_alone
from layerprobe.cli.paper import add_paper
from layerprobe.cli.probe import add_probe
from layerprobe.cli.reproduce import add_reproduce
from layerprobe.errors import LayerprobeError

if TYPE_CHECKING:
    from tyro.extras import SubcommandApp

__all__ = ["main"]

DESCRIPTION = """Find the layer of a trained network that knows better than its head.

layerprobe COMMAND --help explains a command; layerprobe --version prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: part of it failed, and stderr says which; 2: something is not as expected, and one message on
    stderr says what; 130: interrupted.
    """
    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"layerprobe {version('layerprobe')}")
        return 0
    if refusal := refuse_alone(arguments):
        print(f"layerprobe: {refusal}", file=sys.stderr)
        return 2
    try:
        _commands().cli(
            prog="layerprobe",
            description=DESCRIPTION,
            args=arguments or ["--help"],
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as end:  # help has been printed, or what is wrong with the arguments
        return end.code if isinstance(end.code, int) else 2
    except (LayerprobeError, OSError) as error:
        print(f"layerprobe: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("layerprobe: interrupted", file=sys.stderr)
        return 130
    return 0


def _commands() -> "SubcommandApp":
    """Return every command; their signatures and docstrings are their help."""
    from tyro.conf import Positional, arg
    from tyro.extras import SubcommandApp

    app, data = SubcommandApp(), SubcommandApp()

    @app.command
    def demo(
        *,
        corruption: float = 0.6,
        seeds: int = 3,
        variance: float = 0.99,
        out: Path = Path("demo"),
        json: bool = False,
    ) -> None:
        """Train networks on shuffled labels, then decode them layer by layer.

        MLPs learn handwritten digits, with part of the training labels redrawn at random, by heart. Then MASC
        and every other probe read each layer, fitted on the noisy and on the true labels. Nothing is
        downloaded, and it takes less than a minute on two cores. Writes rows.csv, history.csv, figure.png,
        figure.svg, report.html and run.json.

        Args:
            corruption: Probability, 0 to 1, that a training label is redrawn from all ten classes.
            seeds: How many networks, each with its own noise, initial weights and batch order.
            variance: Share of each class's variance, above 0 and up to 1, that MASC's subspaces keep.
            out: Folder for the results. If it exists, only the files named above are replaced.
            json: Print the results as JSON on stdout, and nothing else there.
        """
        from layerprobe.demo import Spec, run_demo, show

        result = run_demo(Spec(corruption, seeds, variance), out)
        if json:
            print(jsonlib.dumps(result.summary(), indent=2))
        else:
            show(result, out)

    add_audit(app)
    add_probe(app)
    app.command(data, name="data", help="Download data sets.")

    @data.command
    def fetch(
        name: Annotated[str, Positional, arg(metavar="NAME")],
        root: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    ) -> None:
        """Download a data set and check it against its publisher's checksums. Right files are kept.

        Args:
            name: mnist, fashion-mnist, cifar-10, cifar-100 or tiny-imagenet.
            root: Gets the data set's own folder. Without it, LAYERPROBE_DATA or else the user's cache folder.
        """
        from layerprobe.data import fetch

        print(fetch(name, root, progress=True))

    add_paper(app)
    add_reproduce(app)
    return app
