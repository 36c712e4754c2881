"""`layerprobe audit`: what a trained network knows about the wrong labels that it was trained on."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from layerprobe.cli.jobs import one_job
from layerprobe.cli.user_data import load_rows, require_folder

if TYPE_CHECKING:
    from tyro.extras import SubcommandApp

    from layerprobe.auditing.result import Audit

__all__ = ["add_audit"]


def add_audit(app: "SubcommandApp") -> None:
    """Add the command to the application; its signature and docstring are its help."""
    from tyro.conf import arg

    reference = "PKG.MOD:NAME"

    @app.command
    def audit(
        *,
        model: Annotated[str, arg(metavar=reference)],
        weights: Path | None = None,
        data: Annotated[str, arg(metavar="PATH")],
        policy: Annotated[str, arg(metavar="NAME")],
        holdout: Annotated[str | None, arg(metavar="PATH")] = None,
        trusted: Annotated[str | None, arg(metavar="PATH")] = None,
        test: Annotated[str | None, arg(metavar="PATH")] = None,
        views: tuple[str, ...] = (),
        layers: tuple[str, ...] = (),
        pool: Literal["mean", "max", "first", "last"] | None = None,
        inputs: Annotated[str | None, arg(metavar=reference)] = None,
        resize: tuple[int, int] | None = None,
        path_column: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        class_names: tuple[str, ...] = (),
        seed: int = 0,
        batch_size: int = 512,
        device: str | None = None,
        out: Path = Path("audit"),
        dry_run: bool = False,
        json: bool = False,
    ) -> None:
        """Find wrong labels, and the layer that knows better, with one trained network and no clean labels.

        This runs your code: it imports the modules that --model and --inputs name, from the current
        directory first. Nothing that it reads from --weights or --data can run code. Writes report.html,
        issues.csv, layers.csv, controls.csv, noise.json and audit.safetensors.

        Data are a folder with a subfolder of images a class; a .csv file with the columns path and label, or
        text and label; an .npz file with the arrays x and y; a data set that Hugging Face's save_to_disk
        wrote; or PKG.MOD:NAME, anything that layerprobe.audit takes or a function that returns it.

        Started by torchrun, its processes share the passes of the network: torchrun --standalone
        --nproc-per-node 2 -m layerprobe audit ...

        Args:
            model: A torch.nn.Module, or a class or function that makes one when called with nothing.
            weights: A safetensors file of its state_dict. Without it the model is audited as it is made.
            data: What it was trained on, with the labels that it was trained on.
            policy: What chooses layer and probe: noisy_holdout, rows that the network has not seen, with
                labels as noisy as the rest; unseen_views, views of its own rows; trusted, a few rows whose
                labels are known to be right; or test_split, a test set, as in the paper.
            holdout: The rows of the policy noisy_holdout.
            trusted: The rows of the policy trusted.
            test: The rows of the policy test_split.
            views: Copies of an image, mirrored or moved by two pixels, to be averaged over; any of
                flip, left, right, up, down. The policy unseen_views needs some.
            layers: Names or patterns of layers. Without it, the outputs of all nonlinearities.
            pool: How the positions or tokens of a layer become one row of features.
            inputs: Makes what the model takes of a list of texts, or of uint8 pixels (b, h, w[, 3]). Texts
                need it; pixels become (b, 1 or 3, h, w) in [0, 1] without it.
            resize: Bring images to this height and width.
            path_column: The column of a .csv file that names the images.
            text_column: The column of texts.
            label_column: The column of labels.
            class_names: Names of the network's outputs in their order, where labels are such names and do not
                sort that way, or are their positions.
            seed: Of all that is drawn at random.
            batch_size: Rows of a batch.
            device: Where the model runs, as cuda or cuda:1. Without it, where it is made.
            out: Folder for what is written. If it exists, only the files named above are replaced.
            dry_run: Train and write nothing; say what would be done, how often the data would be read, and
                how much memory it would take.
            json: Print a summary as JSON on stdout, and nothing else there.
        """
        from layerprobe.auditing.features import Reader
        from layerprobe.auditing.method.policies import check_policy
        from layerprobe.auditing.network_audit import audit as audit_model
        from layerprobe.auditing.plan import plan_audit
        from layerprobe.cli.audit_text import as_json, show_audit, show_plan, summary
        from layerprobe.cli.user_code import load_model, load_object
        from layerprobe.layers.views import resolve_views

        with one_job(device) as first:
            given = {"holdout": holdout, "trusted": trusted, "test": test}
            check_policy(policy, given, views=bool(views))
            require_folder(out)
            network = load_model(model, weights, device)
            prepare = None if inputs is None else load_object(inputs)
            columns = {"path_column": path_column, "text_column": text_column, "label_column": label_column}
            reading = {**columns, "inputs": prepare, "batch_size": batch_size, "resize": resize}
            rows = load_rows(data, reading)
            held = {name: load_rows(place, reading) for name, place in given.items() if place is not None}
            chosen = [... if name == "..." else name for name in layers] or None
            names = class_names or None
            if dry_run:
                reader = Reader(network, chosen, pool, resolve_views(views), batch_size)
                what, judges = next(iter(held.items()), ("", None))
                show_plan(plan_audit(reader, rows, judges, what, class_names=names), json=json)
                return
            result = audit_model(
                network,
                rows,
                policy=policy,
                holdout=held.get("holdout"),
                trusted=held.get("trusted"),
                test=held.get("test"),
                views=views,
                layers=chosen,
                pool=pool,
                class_names=names,
                batch_size=batch_size,
                seed=seed,
                progress=lambda step: print(f"{step} ...", file=sys.stderr),
            )
            if not first:
                return
            _write(result, out)
            if json:
                print(as_json(summary(result)), end="")
            else:
                show_audit(result, out)


def _write(audit: "Audit", out: Path) -> None:
    """Write the report, the tables and the audit itself; each file is replaced at once or not at all."""
    from layerprobe.cli.audit_text import as_json, noise_of
    from layerprobe.utils.files import replace_file

    out.mkdir(parents=True, exist_ok=True)
    audit.save(out / "audit.safetensors")
    for name in ("issues", "layers", "controls"):
        replace_file(out / f"{name}.csv", getattr(audit, name).to_csv(index=False).encode())
    replace_file(out / "noise.json", as_json(noise_of(audit)).encode())
    audit.report(out / "report.html")
