"""`layerprobe reproduce`: the paper, or one table or figure of it, beside the published numbers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from layerprobe.cli.commands import readable_options
from layerprobe.cli.jobs import Workers
from layerprobe.cli.output import print_error
from layerprobe.errors import InputError
from layerprobe.utils.terminal import say

if TYPE_CHECKING:
    from layerprobe.runs.grid import Outcome


@readable_options
def reproduce_results(
    workers: Annotated[Workers, arg(name="")],
    names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME")] = ("table1",),
    *,
    pair: tuple[str, ...] = (),
    probes: tuple[str, ...] = (),
    weights: Path | None = None,
    scale: Literal["small", "medium", "full"] | None = None,
    root: Path = Path("runs"),
    out: Path = Path("reproduction"),
    dry_run: bool = False,
    as_is: bool = False,
    json: bool = False,
) -> None:
    """Reproduce tables and figures of the paper.

    Trains the networks, measures them, and writes tables and figures beside the published numbers. Computes
    only what is missing: the same command continues an interrupted reproduction. Writes tables/, figures/,
    report.html, rows.csv, history.csv and provenance.json. The exit code is 1 if a run failed or another
    process holds it; the results of the other runs are written.

    Args:
        workers: Where runs are trained and measured.
        names: table1, figure2, ..., probes, thresholds, ...; or all.
        pair: Networks and data sets; by default the eight of the paper. PKG.MOD:NAME of a
            layerprobe.paper.Pair is one of your own; it uses all its images and its own recipe at every
            scale.
        probes: Further probes, by name or as PKG.MOD:NAME. Only the experiment named probes takes --probes.
            It always fits masc, ncm, logistic, lda, qda, knn, velpic; --probes adds others of
            layerprobe.probes.available(). Every other experiment has fixed probes.
        weights: Folder of networks of one pair that were trained elsewhere, as 0.4_run1.pth (corruption
            degree, number of the run; also .safetensors), on all images with the published noise draw. Every
            experiment that needs no training is done on them; their rows have the variant "weights published"
            and are never mixed with others.
        scale: By default small, and full with --weights. small: about 1,000 training images, for a first
            trial on two cores, too few for the effects of the paper; medium: 10,000, where they appear; full:
            all images, for a GPU. --dry-run estimates the time.
        root: Folder of all runs.
        out: Folder for the results.
        dry_run: Do nothing; print the runs and an estimate of their time and disk space.
        as_is: Train and measure nothing; write tables, figures and report from the runs that exist.
        json: Print the state of all runs as JSON on stdout, and nothing else.
    """
    from layerprobe.cli.user_code import names_in
    from layerprobe.paper.pairs import PAIRS, PAPER_PAIRS
    from layerprobe.paper.plans import SCALES, released_scale
    from layerprobe.paper.plans import plan as plan_of
    from layerprobe.paper.released import import_weights, released_files
    from layerprobe.probes import REGISTRY
    from layerprobe.report.reproduction import announce, write_all
    from layerprobe.report.reproduction import reproduce as reproduce_plan
    from layerprobe.report.run_tables import failures, show_grid, unfinished
    from layerprobe.runs.states import status
    from layerprobe.utils.files import require_folder

    if dry_run and as_is:
        raise InputError(
            "--dry-run writes nothing and --as-is writes existing results; leave out one of the two"
        )
    for folder in (out,) if as_is else (root, out):  # --as-is only reads the root
        require_folder(folder)
    jobs = workers.resolve()
    pairs = names_in(PAIRS, pair, call=True) or PAPER_PAIRS
    chosen = SCALES[scale or "small"]
    if weights is not None:
        if len(pairs) != 1 or scale not in (None, "full"):
            raise InputError(
                "--weights has the networks of one pair, trained on all images; name one --pair and "
                "leave out --scale"
            )
        runs = sorted({run for _, run in released_files(weights)})
        chosen = released_scale(pairs[0], runs)
    plan = plan_of(names, chosen, pairs, names_in(REGISTRY, probes))
    if weights is not None and not (as_is or dry_run):
        import_weights(weights, list(plan.work), root, data_root=workers.data)
    if not as_is:
        say(announce(plan, root, jobs), error=True)
    if dry_run:
        for name, reason in plan.left_out.items():
            say(f"{name} is left out: {reason}", error=True)
    failed: list[Outcome] = []
    if as_is:
        results = write_all(plan, root, out)
        if not results:
            raise InputError(f"there is nothing to write: no run in {root} shows {', '.join(names)}")
        failed = results.damaged
    elif not dry_run:
        failed = reproduce_plan(plan, root, out, jobs=jobs, device=workers.device, data_root=workers.data)
    rows = status(root, list(plan.work))
    if dry_run or json:
        show_grid(root, rows, failed, json=json)
    left = "" if dry_run or as_is else unfinished(rows)
    for line in filter(None, [left, *failures(failed)]):
        print_error(line)
    if failed or left:
        raise SystemExit(1)
