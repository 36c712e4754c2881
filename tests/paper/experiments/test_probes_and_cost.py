from dataclasses import replace

import numpy as np
import pytest

from layerprobe.paper.experiments import cost, probes
from layerprobe.paper.experiments.probe_comparison import (
    OF_THE_PAPER,
    PROBE_SEEDS,
    PROBES,
    SEEDED,
    affordable_probes,
    fit_flops,
    masc_fit_flops,
    predict_flops,
)
from layerprobe.probes import REGISTRY, create
from layerprobe.utils import peak_memory as memory
from layerprobe.utils.peak_memory import peak_bytes


def test_accuracies_are_those_of_the_probes_themselves(memorised):
    rows = probes(memorised)
    data = memorised.outputs["fc1"]
    for name in PROBES:
        for fitted_on, labels in memorised.label_sets.items():
            here = rows[(rows["layer"] == "fc1") & (rows["probe"] == name) & (rows["fitted_on"] == fitted_on)]
            seeds = [f"seed {seed}" for seed in PROBE_SEEDS] if name in SEEDED else [""]
            assert sorted(here["setting"]) == sorted(3 * seeds)
            for seed in seeds:
                probe = create(OF_THE_PAPER.get(name, name))
                fitted = (probe.set_params(random_state=int(seed[5:])) if seed else probe).fit(
                    data.train, labels
                )
                test = here.loc[(here["split"] == "test") & (here["setting"] == seed), "value"].item()
                assert test == pytest.approx(fitted.score(data.test, memorised.test_labels))


def test_qda_is_left_out_where_it_takes_too_long(memorised):
    whole = replace(memorised, run=replace(memorised.run, spec=replace(memorised.spec, subset=None)))
    everything = list(PROBES)
    assert affordable_probes(memorised, 512) == affordable_probes(whole, 2048) == everything
    without = [name for name in everything if name != "qda"]
    assert affordable_probes(memorised, 2048) == affordable_probes(whole, 16384) == without


def test_operations_of_masc_by_hand():
    # d = 4: five rows by the moment, 5 * 16 + 22/3 * 64; three rows by the Gram matrix with one component
    by_moment, by_gram = 5 * 16 + 22 / 3 * 64, 9 * 4 + 22 / 3 * 27 + 2 * 3 * 4 * 1
    assert masc_fit_flops([5], 4, [2]) == pytest.approx(by_moment)
    assert masc_fit_flops([3], 4, [1]) == pytest.approx(by_gram)
    assert masc_fit_flops([5, 3], 4, [2, 1]) == pytest.approx(by_moment + by_gram)


def test_operations_of_a_fitted_probe_by_hand():
    X, y = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
    masc = create("masc", variance=0.9).fit(X, y)  # two rows of equal variance: both components
    assert masc.subspaces_.ranks == (2, 2)
    assert predict_flops(masc, m=10, n=4, d=4) == 2 * 10 * 4 * 4
    counts = np.array([2, 2])
    assert fit_flops(masc, counts, 4) == masc_fit_flops(counts, 4, (2, 2))
    assert fit_flops(create("logistic_adam", epochs=3).fit(X, y), counts, 4) == 4 * 4 * 4 * 2 * 3
    assert predict_flops(create("knn", n_neighbors=1).fit(X, y), m=10, n=4, d=4) == 2 * 10 * 4 * 4
    assert fit_flops(create("knn", n_neighbors=1).fit(X, y), counts, 4) == 0


def test_probes_are_those_of_the_paper_and_its_follow_up():
    assert PROBES == ("masc", "ncm", "logistic", "lda", "qda", "knn", "velpic")
    assert set(PROBES) < set(REGISTRY)


def test_every_probe_of_the_paper_has_a_formula(memorised):
    rows = cost(memorised)
    flops = rows[rows["metric"].str.endswith("_flops")]
    assert set(flops["probe"]) == set(PROBES)
    assert flops["value"].notna().all()
    assert (rows.loc[rows["metric"].str.endswith("_seconds"), "value"] > 0).all()


def test_peak_memory_counts_freed_allocations():
    peak = peak_bytes(lambda: np.ones(4_000_000).sum())
    if peak is None:
        pytest.skip("this kernel does not report the peak memory of a process")
    assert 30e6 < peak < 45e6


def test_the_work_is_done_where_peak_memory_is_unknown(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(memory, "RESET", tmp_path / "nowhere" / "clear_refs")
    assert peak_bytes(lambda: done.append(1)) is None
    assert done == [1]
