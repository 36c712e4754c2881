"""`layerprobe probe`: what every layer of a trained network knows."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from layerprobe.cli.jobs import one_job
from layerprobe.cli.user_data import load_rows, require_folder
from layerprobe.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from tyro.extras import SubcommandApp

    from layerprobe.auditing.dataset.labelled import LabelledDataset

__all__ = ["add_probe"]


def add_probe(app: "SubcommandApp") -> None:
    """Add the command to the application; its signature and docstring are its help."""
    from tyro.conf import arg

    reference = "PKG.MOD:NAME"

    @app.command
    def probe(
        *,
        model: Annotated[str, arg(metavar=reference)],
        weights: Path | None = None,
        data: Annotated[str, arg(metavar="PATH")],
        test: Annotated[str | None, arg(metavar="PATH")] = None,
        true_labels: Annotated[Path | None, arg(metavar="FILE")] = None,
        layers: tuple[str, ...] = (),
        probes: tuple[str, ...] = ("masc",),
        variances: tuple[float, ...] = (),
        pool: Literal["mean", "max", "first", "last"] | None = None,
        inputs: Annotated[str | None, arg(metavar=reference)] = None,
        resize: tuple[int, int] | None = None,
        path_column: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        class_names: tuple[str, ...] = (),
        batch_size: int = 512,
        device: str | None = None,
        memory: str | None = None,
        out: Path = Path("probe"),
        dry_run: bool = False,
        json: bool = False,
    ) -> None:
        """Ask every layer of a trained network what it knows: MASC and other probes beside its own head.

        Each probe is fitted on each layer's outputs for the data, by their labels, and measured on them and
        on the test data. Which layer to use is another question, which layerprobe audit answers: choosing by
        the test data is the paper's way, and needs right labels.

        This runs your code: it imports the modules that --model and --inputs name, from the current directory
        first. Nothing that it reads from --weights or --data can run code. Writes rows.csv, figure.png and
        figure.svg; the figure shows MASC, at its largest variance, or else the first probe.

        Data are a folder with a subfolder of images a class; a .csv file with the columns path and label, or
        text and label; an .npz file with the arrays x and y; a data set that Hugging Face's save_to_disk
        wrote; or PKG.MOD:NAME, anything that layerprobe.audit takes or a function that returns it.

        Started by torchrun, its processes share the rows: torchrun --standalone --nproc-per-node 2 -m
        layerprobe probe ...

        Args:
            model: A torch.nn.Module, or a class or function that makes one when called with nothing.
            weights: A safetensors file of its state_dict. Without it the model is probed as it is made.
            data: What probes are fitted on, with the labels that the network was trained on.
            test: Data to measure them on.
            true_labels: Right labels of the data, where they are known: an .npy file, or a .csv file with the
                column label, in the order of the rows. Probes are then fitted on both sets of labels.
            layers: Names or patterns of layers. Without it, the outputs of all nonlinearities.
            probes: Any of masc, ncm, velpic, ridge, shrinkage_lda, lda, qda, knn, whitened_knn, logistic.
            variances: Shares of the variance for MASC, all measured from one fit. Without it 0.99.
            pool: How the positions or tokens of a layer become one row of features.
            inputs: Makes what the model takes of a list of texts, or of uint8 pixels (b, h, w[, 3]). Texts
                need it; pixels become (b, 1 or 3, h, w) in [0, 1] without it.
            resize: Bring images to this height and width.
            path_column: The column of a .csv file that names the images.
            text_column: The column of texts.
            label_column: The column of labels.
            class_names: Names of the network's outputs in their order, where labels are such names and do not
                sort that way, or are their positions.
            batch_size: Rows of a batch.
            device: Where the model runs, as cuda or cuda:1. Without it, where it is made.
            memory: What may be taken, as 8GiB. Without it 80 % of what is free.
            out: Folder for what is written. If it exists, only the files named above are replaced.
            dry_run: Fit and write nothing; say how many bytes and operations it would take.
            json: Print the rows as JSON on stdout, and nothing else there.
        """
        import numpy as np

        from layerprobe.auditing.dataset.readers import read_labels
        from layerprobe.cli.audit_text import as_json
        from layerprobe.cli.user_code import load_model, load_object
        from layerprobe.figures import save
        from layerprobe.layers.batches import Batches
        from layerprobe.layerwise import plan
        from layerprobe.layerwise import probe as probe_model
        from layerprobe.probes.naming import named_probes
        from layerprobe.utils.files import replace_file
        from layerprobe.utils.memory_limit import as_bytes

        with one_job(device) as first:
            require_folder(out)
            named = named_probes(probes, variances or None)  # refused now, not when all is read
            drawn = max(named, key=lambda name: getattr(named[name], "variance", None) or 0.0)
            if memory is not None:
                as_bytes(memory)
            network = load_model(model, weights, device)
            prepare = None if inputs is None else load_object(inputs)
            columns = {"path_column": path_column, "text_column": text_column, "label_column": label_column}
            reading = {**columns, "inputs": prepare, "batch_size": batch_size, "resize": resize}
            rows = load_rows(data, reading)
            test_rows = None if test is None else load_rows(test, reading)
            coded = _codes(rows.labels, class_names)
            sets = {"given": coded(rows.labels, "--data")}
            if true_labels is not None:
                sets["true"] = coded(read_labels(true_labels), "--true-labels")
                if (n := len(sets["true"])) != rows.n:
                    raise InputError(f"{true_labels} has {n} labels for {rows.n} rows of --data")
            train = Batches(partial(_batches, rows, sets["given"], batch_size), rows.n)
            held = None
            if test_rows is not None:
                held_labels = coded(test_rows.labels, "--test")
                held = Batches(partial(_batches, test_rows, held_labels, batch_size), test_rows.n)
            chosen = [... if name == "..." else name for name in layers] or None
            options: dict[str, Any] = {"layers": chosen, "probes": probes, "pool": pool}
            options |= {"variances": variances or None, "memory": memory}
            n_test = 0 if test_rows is None else test_rows.n
            if dry_run:
                changed = float(np.mean(sets["given"] != sets.get("true", sets["given"])))
                counted: dict[str, Any] = {"test_rows": n_test, "label_sets": len(sets), "changed": changed}
                counted["classes"] = len(np.unique(np.concatenate(list(sets.values()))))
                found = plan(network, train, **counted, **options)
                print(as_json(found.summary()) if json else found)
                return
            print(f"probing {rows.n:,} rows and {n_test:,} test rows ...", file=sys.stderr)
            table = probe_model(network, train, held, train_labels=sets, batch_size=batch_size, **options)
            if not first:
                return
            out.mkdir(parents=True, exist_ok=True)
            replace_file(out / "rows.csv", table.to_csv(index=False).encode())
            save(table.plot(drawn), out / "figure")
            if json:
                print(as_json({"rows": table.to_dict("records")}), end="")
            else:
                print(f"{table!r}\nAll rows are in {out / 'rows.csv'}, a picture in {out / 'figure.png'}.")


def _batches(rows: "LabelledDataset", labels: "np.ndarray", batch_size: int) -> Iterator[tuple]:
    for x, positions in rows.batches(batch_size):
        yield x, labels[positions], positions


def _codes(given: "np.ndarray", class_names: Sequence[str]) -> "Callable[[np.ndarray, str], np.ndarray]":
    """Return what makes labels numbers of the network's outputs: names by their order; numbers stay."""
    import numpy as np

    from layerprobe.auditing.dataset.labels import Classes

    numbers = given.dtype.kind in "iu" and not class_names
    classes = None if numbers else Classes.from_labels(given, None, class_names or None)

    def coded(labels: np.ndarray, what: str) -> np.ndarray:
        if not class_names and (labels.dtype.kind in "iu") != numbers:
            kinds = ("names", "numbers") if numbers else ("numbers", "names")
            raise InputError(f"the labels of {what} are {kinds[0]}, and those of --data {kinds[1]}")
        if classes is not None:
            return classes.indices(labels, f"labels of {what}").numpy()
        codes = labels.astype(np.int64)
        if len(codes) and not np.isin(codes, given).any():
            raise InputError(f"no label of {what} occurs in --data: {np.unique(codes)[:5].tolist()} ...")
        return codes

    return coded
