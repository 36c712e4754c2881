"""`layerprobe probe`: the accuracy of probes on every layer of a trained network."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from layerprobe.cli.commands import readable_options
from layerprobe.cli.jobs import one_job
from layerprobe.cli.options import DATA, DEFAULTS, MODEL, NetworkOptions
from layerprobe.cli.output import as_json
from layerprobe.errors import InputError
from layerprobe.utils.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from layerprobe.auditing.dataset.labelled import LabelledDataset
    from layerprobe.layers.batches import Batches


@readable_options
def probe_layers(
    *,
    model: Annotated[str, arg(metavar="PKG.MOD:NAME", help=MODEL)],
    data: Annotated[str, arg(metavar="PATH", help=DATA)],
    test: Annotated[str | None, arg(metavar="PATH")] = None,
    true_labels: Annotated[Path | None, arg(metavar="FILE")] = None,
    probes: tuple[str, ...] = ("masc",),
    variances: tuple[float, ...] = (),
    memory: str | None = None,
    out: Path = Path("probe"),
    options: Annotated[NetworkOptions, arg(name="")] = DEFAULTS,
) -> None:
    """Measure MASC and other probes on every layer of a network.

    Each probe is fitted on the outputs of each layer for --data and their labels, and measured on --data and
    on --test. With --true-labels, it is also fitted on the right labels. Writes rows.csv, figure.png and
    figure.svg. The figure shows MASC at its largest variance, or else the first probe. To choose a layer, use
    layerprobe audit: a choice by test accuracy, as in the paper, needs right labels.

    This command runs your code: it imports the modules that --model and --inputs name, first from the current
    directory. Files given by --weights and --data cannot run code.

    With torchrun, several processes share the rows: torchrun --standalone --nproc-per-node 2 -m layerprobe
    probe ...

    Args:
        test: Data on which the probes are measured.
        true_labels: Right labels of --data: an .npy file, or a .csv file with the column label.
        probes: Any of masc, ncm, velpic, ridge, shrinkage_lda, lda, qda, knn, whitened_knn, logistic,
            logistic_adam; probes of installed packages; or PKG.MOD:NAME of a class of your own.
        variances: Shares of the variance that MASC keeps, all measured from one fit. Without it: 0.99.
        memory: Memory limit, for example 8GiB. Without it: 80 % of the free memory.
        out: Folder for the results. Only the files named above are replaced in it.
    """
    import numpy as np

    from layerprobe.auditing.dataset.readers import read_labels
    from layerprobe.cli.user_code import names_in
    from layerprobe.figures import save
    from layerprobe.layerwise import plan as plan_probes
    from layerprobe.layerwise import probe as probe_network
    from layerprobe.probes import REGISTRY, named_probes
    from layerprobe.utils.files import require_folder, write_csv
    from layerprobe.utils.memory_limit import as_bytes

    with one_job(options.device) as first:
        # Wrong options raise before the data are read.
        require_folder(out)
        probes = names_in(REGISTRY, probes)
        named = named_probes(probes, variances or None)
        drawn = max(named, key=lambda name: getattr(named[name], "variance", None) or 0.0)
        if memory is not None:
            as_bytes(memory)
        network = options.load_model(model)
        rows = options.load_rows(data, network)
        test_rows = None if test is None else options.load_rows(test, network)
        encode = _encoder(rows.labels, options.class_names)
        y = {"given": encode(rows.labels, "--data")}
        if true_labels is not None:
            y["true"] = encode(read_labels(true_labels), "--true-labels")
            if len(y["true"]) != rows.n:
                raise InputError(f"{true_labels} has {len(y['true'])} labels for {rows.n} rows of --data")
        train = _batches(rows, y["given"], options.batch_size)
        held, n_test = None, 0
        if test_rows is not None:
            held = _batches(test_rows, encode(test_rows.labels, "--test"), options.batch_size)
            n_test = test_rows.n
        common: dict[str, Any] = {
            "layers": options.selected_layers,
            "probes": probes,
            "pool": options.pool,
            "variances": variances or None,
            "memory": memory,
        }
        if options.dry_run:
            plan = plan_probes(
                network,
                train,
                test_rows=n_test,
                label_sets=len(y),
                changed=float(np.mean(y["given"] != y.get("true", y["given"]))),
                classes=len(np.unique(np.concatenate(list(y.values())))),
                **common,
            )
            say(as_json(plan.summary()) if options.json else plan)
            return
        say(f"probing {rows.n:,} rows and {n_test:,} test rows ...", error=True)
        table = probe_network(
            network,
            train,
            held,
            train_labels=y,
            class_names=options.class_names or None,
            batch_size=options.batch_size,
            **common,
        )
        if not first:
            return
        out.mkdir(parents=True, exist_ok=True)
        write_csv(table, out / "rows.csv")
        save(table.plot(drawn), out / "figure")
        if options.json:
            say(as_json({"rows": table.to_dict("records")}))
        else:
            say(repr(table))
            say(f"All rows are in {out / 'rows.csv'}, a figure in {out / 'figure.png'}.")


def _batches(rows: "LabelledDataset", y: "np.ndarray", batch_size: int) -> "Batches":
    from layerprobe.layers.batches import Batches

    return Batches(lambda: ((x, y[at], at) for x, at in rows.batches(batch_size)), rows.n)


def _encoder(given: "np.ndarray", class_names: Sequence[str]) -> "Callable[[np.ndarray, str], np.ndarray]":
    """Return a function that checks labels; integers become the names at their positions in `class_names`."""
    import numpy as np

    from layerprobe.layerwise.classes import Classes

    numbers = given.dtype.kind in "iu" and not class_names
    classes = None if numbers else Classes.from_labels(given, None, class_names or None)

    def encode(labels: np.ndarray, option: str) -> np.ndarray:
        if not class_names and (labels.dtype.kind in "iu") != numbers:
            kinds = ("names", "numbers") if numbers else ("numbers", "names")
            raise InputError(f"the labels of {option} are {kinds[0]}, but those of --data are {kinds[1]}")
        if classes is not None:
            return classes.names[classes.indices(labels, f"labels of {option}").numpy()]
        y = labels.astype(np.int64)
        if len(y) and not np.isin(y, given).any():
            raise InputError(f"no label of {option} occurs in --data: {np.unique(y)[:5].tolist()} ...")
        return y

    return encode
