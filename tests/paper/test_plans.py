from dataclasses import replace

import pytest

from layerprobe.errors import InputError
from layerprobe.paper.experiments import EXPERIMENTS
from layerprobe.paper.figures import FIGURES
from layerprobe.paper.pairs import PAPER_PAIRS
from layerprobe.paper.plans import (
    DEGREES,
    EVERY_DEGREE,
    FAMILIES,
    SCALES,
    epochs_expected,
    plan,
    seconds_left,
    targets,
)
from layerprobe.paper.tables import TABLES
from layerprobe.runs.grid import operations
from layerprobe.runs.specs import RunSpec

SMALL, FULL = SCALES["small"], SCALES["full"]


def test_table_1_takes_the_noisy_grid_and_one_experiment():
    made = plan(["table1"], SMALL, ["mlp-mnist"])
    assert {(spec.corruption, spec.seed) for spec in made.work} == {(p, s) for p in DEGREES for s in (0, 1)}
    assert {name for names in made.work.values() for name in names} == {"noisy_subspaces"}


def test_figures_have_what_they_show_beside_the_needed_experiments():
    for name, beside in {"figure3": "noisy_subspaces", "thresholds": "true_subspaces"}.items():
        made = plan([name], SMALL, ["mlp-mnist"])
        assert all(
            {"noisy_subspaces", beside} <= {*names} for spec, names in made.work.items() if spec.corruption
        )
        assert {spec.corruption for spec, names in made.work.items() if "noisy_subspaces" in names} >= {
            0,
            *DEGREES,
        }


@pytest.mark.parametrize("name", ["flipped", "figure17"])
def test_no_network_is_trained_on_clean_labels_for_figures_of_wrong_ones(name):
    work = plan([name], SMALL, ["mlp-mnist"]).work
    assert {spec.corruption for spec in work} == {*DEGREES, 1.0}
    assert all(work.values())


def test_histories_are_of_the_degrees_of_tables_2_and_3():
    made = plan(["history"], SMALL, ["mlp-mnist"])
    assert {spec.corruption for spec in made.work} == set(EVERY_DEGREE)


def test_plan_of_all_has_every_table_figure_and_experiment():
    made = plan(["all"], SMALL, PAPER_PAIRS)
    assert set(made.targets) == {*TABLES, *FIGURES}
    assert {name for names in made.work.values() for name in names} == set(EXPERIMENTS)
    assert all(EXPERIMENTS[name].suits(spec) for spec, names in made.work.items() for name in names)
    assert all(spec in made.work for specs in made.shown.values() for spec in specs)


@pytest.mark.parametrize("pairs", [["mlp-digits"], ["cnn-mnist"], PAPER_PAIRS])
def test_every_family_has_runs_of_the_given_pairs_only(pairs):
    for family in FAMILIES.values():
        for spec in family(SMALL, pairs):
            assert spec.pair in pairs


def test_full_scale_uses_the_recipe_of_the_paper():
    for spec in plan(["table1", "table2"], FULL, PAPER_PAIRS).work:
        assert spec == RunSpec.of(spec.pair, spec.corruption, spec.seed)


def test_figure_of_training_images_takes_runs_on_other_numbers_of_images():
    for scale, sizes in (("medium", (1000, 3000, None)), ("full", (1000, 3000, 10_000)), ("small", ())):
        made = plan(["training_images"], SCALES[scale], PAPER_PAIRS)
        own = plan(["table1"], SCALES[scale], PAPER_PAIRS).work.keys()
        cells = {(s.pair, s.corruption, s.subset) for s in made.work.keys() - own}
        pairs = ("mlp-mnist", "cnn-fashion-mnist")
        assert cells == {(pair, p, n) for pair in pairs for p in (0.4, 0.8) for n in sizes}
        assert {*made.work.values()} == {("noisy_subspaces", "controls")}


def test_small_scale_uses_subsets_in_every_spec():
    assert all(spec.subset and spec.test_subset for spec in plan(["all"], SMALL, PAPER_PAIRS).work)


def test_the_dynamics_are_those_of_runs_that_keep_checkpoints():
    made = plan(["dynamics", "table1"], SMALL, ["mlp-mnist", "cnn-mnist"])
    followed = {spec for spec, names in made.work.items() if "dynamics" in names}
    assert followed == made.checkpoints
    assert [(spec.pair, spec.corruption, spec.seed) for spec in followed] == [("mlp-mnist", 0.4, 0)]
    # the same run keeps them when it is trained for another target first
    assert plan(["table1"], SMALL, ["mlp-mnist"]).checkpoints == followed


def test_optimisers_and_retraining_cover_every_degree():
    made = plan(["optimizers"], SMALL, PAPER_PAIRS)
    cells = {(spec.pair, spec.corruption, spec.recipe.optimizer) for spec in made.work}
    assert cells == {
        (pair, p, name)
        for pair in ("mlp-mnist", "mlp-cifar10")
        for p in EVERY_DEGREE
        for name in ("sgd", "adam")
    }
    retrained = plan(["figure4"], SMALL, ["cnn-mnist"]).work
    assert {spec.corruption for spec, names in retrained.items() if "retraining" in names} == {*EVERY_DEGREE}


def test_supplementary_table_1_needs_no_run():
    assert plan(["supplementary_table1"], SMALL, ["cnn-mnist"]).work == {}


def test_sensitivity_varies_one_seed_at_a_time():
    base, *varied = FAMILIES["seeds"](SMALL, ["cnn-mnist"])
    for spec in varied:
        seeds = ("noise_seed", "init_seed", "order_seed")
        changed = [name for name in seeds if getattr(spec, name) != getattr(base, name)]
        assert len(changed) == 1
        assert replace(spec, seed=0, **{name: getattr(base, name) for name in seeds}) == base
    assert len(set(varied)) == 6


def test_the_midway_edit_is_compared_with_no_edit_and_never_stops_early():
    plain, *edited = FAMILIES["midway"](SMALL, ["cnn-cifar10"])
    assert plain.edit is None
    assert [spec.edit.epoch for spec in edited] == [10, 40]
    assert {spec.recipe.max_epochs for spec in (plain, *edited)} == {100}
    assert all(spec.recipe.target > 1 for spec in (plain, *edited))


@pytest.mark.parametrize("names", [["tabel1"], ["table1", "figure99"]])
def test_an_unknown_target_is_named(names):
    with pytest.raises(InputError, match=names[-1]):
        targets(names)


@pytest.mark.parametrize("name", ["figure2", "figure27", "optimizers"])
def test_a_target_that_shows_other_pairs_gets_no_run(name):
    with pytest.raises(InputError, match=f"nothing to do for mlp-digits; {name}: it shows other pairs"):
        plan([name], SMALL, ["mlp-digits"])
    made = plan([name, "table2"], SMALL, ["mlp-digits"])
    assert made.left_out == {name: "it shows other pairs"}
    assert {*made.work.values()} == {()}
    if name.startswith("figure"):
        assert {spec.pair for spec in plan([name], SMALL, PAPER_PAIRS).work} == {*FIGURES[name].pairs}


def test_no_pairs_are_refused():
    with pytest.raises(InputError, match="pair"):
        plan(["table1"], SMALL, [])


def test_operations_of_an_epoch_by_hand():
    # 784-128-512-2048-2048-10: two operations a weight, thrice for training, once for testing
    weights = 784 * 128 + 128 * 512 + 512 * 2048 + 2048 * 2048 + 2048 * 10
    spec = SMALL.spec("mlp-mnist", 0.4, 0)
    assert operations(spec) == 2 * weights * (3 * 1000 + 2000)


def test_estimates_follow_the_published_epochs_and_shrink_as_runs_progress(tmp_path):
    full = FULL.spec("mlp-mnist", 0.8, 0)
    assert epochs_expected(full) == pytest.approx(128.6667)
    assert epochs_expected(FAMILIES["midway"](SMALL, ["cnn-cifar10"])[0]) == 100
    assert seconds_left([], tmp_path) == 0
    assert seconds_left([full, full], tmp_path) > 0
