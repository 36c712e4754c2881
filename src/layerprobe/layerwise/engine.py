"""One call of `probe`: a pass that gathers, fits, and passes that score, over all layers at once."""

import time
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import Any

import torch
from torch import Tensor, nn

from layerprobe.core.statistics import LayerSums
from layerprobe.errors import InputError
from layerprobe.layers import capture
from layerprobe.layers.batches import Column, is_whole, join, read_batches
from layerprobe.layers.capturing import RowStore
from layerprobe.layers.selecting import Maybe, matches
from layerprobe.layerwise.fitting import check_rows_here, fit_layer, layer_sums, streams, sums_of_rows
from layerprobe.layerwise.label_sets import Labelling, labels_of
from layerprobe.layerwise.memory import budget, require_held
from layerprobe.layerwise.model_output import Logits, NetworkTally
from layerprobe.layerwise.plans import Plan, plan_of, reads_of
from layerprobe.layerwise.scoring import LayerScorer, Tally, Truth
from layerprobe.layerwise.shards import Shard, own_positions, rows_in
from layerprobe.layerwise.table import COLUMNS, ProbeTable
from layerprobe.utils.distributed import require_same, sum_over_processes, world_size

__all__ = ["Job"]

OUTPUT = "output"
MANY_CLASSES = 1000  # where they are not known: if outputs fit beside so many, nobody has to ask


class Job:
    """One call of `probe`: gather, fit, score, each over all layers, probes and sets of labels."""

    memory: int | float | str | None = None
    test_rows = 0

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        train_labels: Mapping[str, Any] | None,
        candidates: Mapping[str, Any],
        layers: Any,
        pool: Any,
        batch_size: int,
        device: torch.device | str | None,
    ) -> None:
        check_rows_here(candidates)
        self.model, self.train, self.candidates, self.batch_size = model, train, candidates, batch_size
        self.labelling = Labelling(train_labels, train)
        self.reads = reads_of(candidates.values())
        self.renamed: dict[str, str] = {}  # layers that go by another name in the table
        if layers is None:
            self.renamed = {layer: name for name, layer in getattr(model, "probed_layers", {}).items()}
            layers = self.renamed or [...]
        several = isinstance(layers, Iterable) and not isinstance(layers, str)
        wanted: list = list(layers) if several else [layers]
        self.wants_output = any(isinstance(one, str) and matches(OUTPUT, one) for one in wanted)
        self.logits = Logits()
        own = Maybe(OUTPUT)  # a loss, say, has no rows to be captured
        pools = {own: self.logits, **pool} if isinstance(pool, Mapping) else {own: self.logits, "*": pool}
        self.options: dict[str, Any] = {
            "layers": [*wanted, own],
            "pool": pools,
            "batch_size": batch_size,
            "device": device,
        }
        self.layers: list[str] = []  # in order of execution, the output among them
        self.held: dict[str, RowStore] | None = None
        self.answers: list[Tensor] = []  # the model's own, where outputs are held: each (n,)
        self.outputs = 0  # scores that the model gives a row
        self.sums: dict[str, LayerSums] = {}
        self.summing: dict[str, float] = {}
        self.columns: tuple[list, list] = ([], [])  # labels and indices of the rows held
        self.scorers: dict[str, LayerScorer] = {}
        self.tallies: dict[str, dict[str, Tally]] = {}  # split -> layer ->
        self.network: dict[str, NetworkTally] = {}  # split ->
        self.label_names: dict[str, Sequence[str]] = {}  # split -> what it is counted against

    # Gathering: the first pass over the training data.

    def gather(self) -> None:
        """Run the model over the training data; hold what its layers put out, or sum it up."""
        shard = Shard(self.train, self.batch_size)
        n = 0

        def take(outputs: dict[str, Tensor], labels: Column | None, indices: Column | None) -> None:
            nonlocal n
            if not self.layers:
                self.labelling.check_order(indices)
                self.begin(outputs)
            if shard.borrowed:  # layers of no row: this process takes part in every sum
                outputs = {layer: rows[:0] for layer, rows in outputs.items()}
                labels, indices = (None if one is None else one[:0] for one in (labels, indices))
            size = len(next(iter(outputs.values())))
            positions = shard.positions(size)
            n += size
            if self.held is None:
                codes = self.labelling.of_rows(labels, indices, positions)
                for layer, sums in self.sums.items():
                    start = time.perf_counter()
                    sums.update(outputs[layer], codes)
                    self.summing[layer] += time.perf_counter() - start
                return
            for layer, store in self.held.items():
                store.append(outputs[layer])
            if self.logits.one_a_class:
                self.answers.append(outputs[OUTPUT].argmax(1).cpu())
                self.outputs = outputs[OUTPUT].shape[1]
            self.columns[0].append(labels)
            self.columns[1].append(indices)
            if rows_in(self.train) is None:
                require_held(sum(store.nbytes for store in self.held.values()), n, self.memory)

        capture(self.model, shard.batches, **self.options, consume=take)
        total = int(sum_over_processes(torch.tensor(n)))
        if not any(one is not None for one in self.columns[1]) and self.held is not None:
            self.labelling.check_length(total)

    def begin(self, outputs: dict[str, Tensor]) -> None:
        """Decide, when the layers are known and before anything is taken, whether rows or sums are kept."""
        self.layers = list(outputs)
        rows = rows_in(self.train)
        if world_size() > 1:
            self.require_same_everywhere(rows)
        hold = True  # an iterator of unknown length may not be there a second time
        if is_whole(self.train) and not self.labelling.known:
            self.labelling.read(self.train, rows or 1)
        if rows is not None:
            hold = self.all_can_hold(self.plan(outputs, rows))
            if not (hold and world_size() == 1) and not self.labelling.known:
                self.labelling.read(self.train, self.batch_size)
                hold = self.all_can_hold(self.plan(outputs, rows))
            if not hold:
                self.plan(outputs, rows).require(budget(self.memory))
        if hold:
            expected = None if rows is None else -(-rows // world_size())
            self.held = {layer: RowStore(layer, expected) for layer in self.probed}
        else:
            chosen = self.probed
            self.sums = {
                layer: layer_sums(outputs[layer], self.labelling, self.reads, rows) for layer in chosen
            }
            self.summing = dict.fromkeys(chosen, 0.0)

    def require_same_everywhere(self, rows: int | None) -> None:
        """Refuse processes that hold different networks, labels or numbers of rows."""
        if rows is None and not self.labelling.known:
            raise InputError(
                "each process of a job sees a part of an iterator's labels; give train_labels=, or data "
                "of known length: arrays, a Dataset, or a loader"
            )
        require_same("network", *self.model.state_dict().values())
        require_same("number of training rows", torch.tensor(-1 if rows is None else rows))
        if (codes := self.labelling.codes) is not None:
            require_same("training labels", codes)
        elif is_whole(self.train):
            labels = next(read_batches(self.train, rows or 1)).labels
            text = repr(labels_of(labels, "training").tolist()).encode()
            require_same("training labels", torch.frombuffer(bytearray(text), dtype=torch.uint8))

    def all_can_hold(self, plan: Plan) -> bool:
        """Tell whether each process of the job has memory for the outputs of its rows."""
        elsewhere = sum(layer.outputs for layer in plan.layers) * (1 - 1 / world_size())
        fits = torch.tensor(int(plan.held - elsewhere <= budget(self.memory)))
        return int(sum_over_processes(fits)) == world_size()

    @property
    def probed(self) -> list[str]:
        """The layers that probes read."""
        return [layer for layer in self.layers if layer != OUTPUT or self.wants_output]

    def plan(self, outputs: Mapping[str, Tensor], rows: int) -> Plan:
        """Count what this call takes, the batch's outputs telling the dimensions."""
        dims = {layer: outputs[layer].shape[1] for layer in self.probed}
        sets = len(self.labelling.names)
        classes = len(self.labelling.classes) or min(rows, MANY_CLASSES)
        itemsize = max(rows.itemsize for rows in outputs.values())
        return plan_of(
            dims,
            rows,
            self.test_rows,
            classes,
            sets,
            self.reads,
            changed=self.labelling.changed,
            itemsize=itemsize,
        )

    # Fitting and scoring.

    def fit(self) -> None:
        """Fit all probes, and count what they get right of the training data."""
        if self.held is not None:
            self.fit_held(self.held)
            return
        for layer in self.probed:
            sums = self.sums.pop(layer)  # let go of when its probes are fitted
            found = fit_layer(layer, self.candidates, self.labelling, sums=sums, summing=self.summing[layer])
            self.scorers[layer] = LayerScorer(found)
        self.score("train", self.train)

    def fit_held(self, held: dict[str, RowStore]) -> None:
        """Fit and score layer by layer; a layer's rows are let go of when that is done."""
        labels, indices = (join(column) if column else None for column in self.columns)
        n = held[self.probed[0]].length
        if not self.labelling.known:
            self.labelling.learn(labels_of(labels, "training"))
        codes = torch.empty(len(self.labelling.names), 0, dtype=torch.int64)
        if n:
            codes = self.labelling.of_rows(labels, indices, own_positions(0, n))
        truth = Truth(self.labelling.names, codes, [self.labelling.classes[row.numpy()] for row in codes])
        self.begin_counting("train", truth.names)
        by_sums = any(map(streams, self.candidates.values()))
        if self.answers:
            self.network["train"].count(torch.cat(self.answers), self.outputs, truth)
        for layer in self.probed:
            X = held.pop(layer).result()
            start, sums = time.perf_counter(), None
            if by_sums and (n >= X.shape[1] or world_size() > 1):  # else rows are shorter
                sums = sums_of_rows(X, codes, self.labelling, self.reads)
            found = fit_layer(
                layer,
                self.candidates,
                self.labelling,
                sums=sums,
                summing=time.perf_counter() - start,
                X=X,
                codes=codes,
            )
            self.scorers[layer] = LayerScorer(found)
            self.scorers[layer].count(X, truth, self.tallies["train"][layer])
        self.add_up("train")

    def score(self, split: str, data: Any) -> None:
        """Run the model over data and count what all probes get right."""
        shard = Shard(data, self.batch_size)
        own = split == "train"
        name = "true" if "true" in self.labelling.names else "given"
        self.begin_counting(split, self.labelling.names if own else (name,))

        def take(outputs: dict[str, Tensor], labels: Column | None, indices: Column | None) -> None:
            if shard.borrowed:
                return
            positions = shard.positions(len(next(iter(outputs.values()))))
            if own:
                codes = self.labelling.of_rows(labels, indices, positions)
                truth = Truth(self.labelling.names, codes, [self.labelling.classes[c.numpy()] for c in codes])
            else:
                given = labels_of(labels, split)
                truth = Truth((name,), self.labelling.code(given)[None], [given])
            for layer, X in outputs.items():
                if layer == OUTPUT and self.logits.one_a_class:
                    self.network[split].count(X.argmax(1), X.shape[1], truth)
                if layer in self.scorers:
                    self.scorers[layer].count(X, truth, self.tallies[split][layer])

        capture(self.model, shard.batches, **self.options, consume=take)
        self.add_up(split)

    def begin_counting(self, split: str, label_names: Sequence[str]) -> None:
        """Start all counts of a split, against these sets of labels."""
        self.label_names[split] = label_names
        self.tallies[split] = {layer: Tally() for layer in self.layers}
        self.network[split] = NetworkTally(len(label_names))

    def add_up(self, split: str) -> None:
        """Add the counts of the other processes, layer by layer."""
        for layer, tally in self.tallies[split].items():
            places = range(len(self.scorers[layer].fitted) if layer in self.scorers else 0)
            tally.sum_over_processes(places, len(self.label_names[split]))
        self.network[split].sum_over_processes()

    def table(self) -> ProbeTable:
        """Put all counts into rows."""
        rows: list[tuple] = []
        for layer in self.layers:
            name = self.renamed.get(layer, layer)
            if layer == OUTPUT:
                rows += self.network_rows()
            for place, one in enumerate(self.scorers[layer].fitted if layer in self.scorers else []):
                for split, names in self.label_names.items():
                    tally = self.tallies[split][layer]
                    seconds = one.seconds + tally.seconds[place]
                    for s, labels in enumerate(names):
                        accuracy = tally.right[place, s] / tally.rows
                        key = (name, one.name, one.fitted_on, split, labels)
                        rows.append((*key, accuracy, one.components, seconds))
        return ProbeTable(rows, columns=COLUMNS)

    def network_rows(self) -> list[tuple]:
        """Accuracies of the model's own output, where the labels are numbers of its classes."""
        return [
            (OUTPUT, "network", "", split, labels, accuracy, nan, nan)
            for split, names in self.label_names.items()
            for labels, accuracy in zip(names, self.network[split].accuracies(), strict=True)
            if accuracy is not None
        ]
