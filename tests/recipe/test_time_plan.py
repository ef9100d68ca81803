import math

import pytest

from aps_components.recipe.facts import Facts, Pace, Shape, Tempo, TimePlan
from aps_components.recipe.parts import epochs_of, learns_unlabelled
from aps_components.recipe.plan import (
    last_iterations,
    make_time_plan,
    prompt_iterations,
    unknown,
)
from aps_components.recipe.settings import Recipe, recipe_of

HOUR = 3600.0
PACE = Pace(
    start=15, labeled=1.0, joint=1.3, alone=0.6, prompt=1.5, scan=4, scan_b=6
)  # per iteration: first round 1.2, alone 0.72
FACTS = Facts(labelled=8, unlabelled=62, patients=8, jobs=2)


def plan_of(seconds, *, facts=FACTS, pace=PACE, recipe=None):
    return make_time_plan(facts, pace, seconds=seconds, recipe=recipe or Recipe())


def test_a_night_has_everything():
    plan = plan_of(8 * HOUR)
    assert (plan.shape.folds, plan.shape.checked, plan.shape.second) == (4, 2, True)
    assert plan.shape.calibrated
    assert plan.shape.mirrored
    assert plan.unlabelled == 62
    assert (plan.shape.prompted, plan.shape.judged) == (True, 2)
    names = ["first round", "is a second round better?", "are Model B's answers better?"]
    names += ["the held-out scans, too", "labels by models", "last training", "Model B beside it"]
    assert [step.name for step in plan.steps] == names


def test_the_iterations_by_hand():
    """One hour, one job, two folds, no unlabelled scan: 40 % of what starting and judging leave is the folds'.

    Judging Model B takes 8 %, training it 12 %, the last Model A 40 %.
    """
    facts = Facts(labelled=6, unlabelled=0, patients=6, can_mirror=False)
    pace = Pace(start=10, labeled=2, joint=99, alone=2, prompt=4, scan=1, scan_b=2)
    recipe = Recipe(folds=2, warmup_share=0.5, least_iterations=30, enough_iterations=30)
    # Of a fold: start, then plain (10 + 3 scans), calibrate (10 + 6), calibrated (10 + 3): 10 + 13 + 16 + 13 = 52.
    # Of Model B on a fold: start, calibrate by both (10 + 6 x 2), answers (10 + 3 x 2). In the end: start of Model A;
    # start of Model B, calibration by both.
    overhead = 2 * 52 + 2 * (10 + 22 + 16) + 10 + (10 + 22)
    usable = 0.97 * HOUR - overhead
    plan = plan_of(HOUR, facts=facts, pace=pace, recipe=recipe)
    assert plan.overhead == pytest.approx(overhead)
    assert plan.first == int(0.4 * usable / 2 / 2)
    assert plan.judge == int(0.08 * usable / 2 / 4)
    assert plan.last == pytest.approx(0.4 * usable / 2, abs=1)
    assert plan.prompt == int(0.12 * usable / 4)
    assert plan.seconds == pytest.approx(0.97 * HOUR, abs=8)


@pytest.mark.parametrize("seconds", [600, 1800, HOUR, 2 * HOUR, 4 * HOUR, 10 * HOUR])
@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.parametrize("unlabelled", [0, 62, 5000])
def test_a_plan_ends_within_its_time(seconds, jobs, unlabelled):
    facts = Facts(labelled=8, unlabelled=unlabelled, patients=8, jobs=jobs)
    plan = plan_of(seconds, facts=facts)
    assert 0.9 * seconds <= plan.seconds <= seconds
    assert plan.last >= Recipe().least_iterations
    assert plan.shape.second <= (unlabelled > 0)
    assert plan.unlabelled * PACE.scan * max(1, plan.shape.folds) <= 0.15 * seconds


def test_no_training_is_longer_than_it_may_be():
    plan = plan_of(100 * HOUR, recipe=Recipe(most_iterations=900))
    assert (plan.first, plan.check, plan.judge, plan.last, plan.prompt) == (900,) * 5
    assert plan.seconds < 4 * HOUR


def test_folds_are_fewer_where_each_would_have_few_iterations():
    none, few, many = (
        plan_of(40 * 60, recipe=Recipe(enough_iterations=count, checked_from=0)) for count in (900, 400, 100)
    )
    assert (none.shape.folds, few.shape.folds, many.shape.folds) == (1, 2, 4)
    assert {plan.shape.parts for plan in (none, few, many)} == {4}  # two trainings are without a quarter each
    assert few.first >= 400
    assert few.last >= 800


def test_where_folds_would_take_too_much_a_part_is_held_out_and_the_last_training_goes_on():
    """35 % of what is left for iterations are without a quarter of the scans; the last training teaches at once."""
    plan = plan_of(40 * 60)
    assert (plan.shape.folds, plan.shape.parts) == (1, 4)
    usable = 0.97 * 40 * 60 - plan.overhead
    assert plan.first == int(0.35 * usable / (1.2 * 0.6))  # alone
    assert plan.last == pytest.approx(0.53 * usable / (1.3 * 0.6), abs=1)
    said, *_ = unknown(plan.shape, FACTS, Recipe())
    assert "about 2 of 8 are answered" in said


def test_model_b_has_enough_iterations_or_none():
    """An iteration of it takes five of Model A's: its share grows to a quarter of the time, or it is left out."""
    facts = Facts(labelled=10, unlabelled=150, patients=10)
    pace = Pace(start=15, labeled=0.5, joint=0.5, alone=0.5, prompt=2.5, scan=0.6, scan_b=2.5)
    plans = [plan_of(minutes * 60, facts=facts, pace=pace) for minutes in range(8, 60, 2)]
    assert all(plan.shape.folds == 1 for plan in plans)  # a figure comes first
    without, with_it = ([plan for plan in plans if plan.shape.prompted is there] for there in (False, True))
    assert len(without) >= 3
    assert len(with_it) >= 3
    assert {plan.prompt for plan in without} == {0}
    assert min(plan.prompt for plan in with_it) == Recipe().least_iterations
    for plan, minutes in zip(plans, range(8, 60, 2), strict=True):
        assert plan.prompt * pace.prompt <= 0.25 * 0.97 * minutes * 60
        left = plan.seconds - plan.steps[0].seconds  # when the first round is done
        again = last_iterations(plan.shape, facts, pace, left=left, recipe=Recipe())
        assert again == pytest.approx(plan.last, rel=0.05)


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_more_time_never_means_fewer_parts(jobs):
    facts = Facts(labelled=10, unlabelled=150, patients=10, jobs=jobs)
    shapes = [plan_of(minutes * 60, facts=facts).shape for minutes in range(5, 600, 5)]
    for part in ("folds", "checked", "calibrated", "prompted"):
        assert [getattr(shape, part) for shape in shapes] == sorted(getattr(shape, part) for shape in shapes), part
    assert not shapes[0].second
    assert shapes[-1].judged
    assert shapes[-1].mirrored


@pytest.mark.parametrize(
    ("seconds", "seen"), [(5 * 60, False), (20 * 60, True), (40 * 60, True), (2 * HOUR, True), (10 * HOUR, True)]
)
def test_with_a_little_time_something_is_known_of_other_scans(seconds, seen):
    shape = plan_of(seconds).shape
    assert bool(shape.folds) == seen
    assert shape.divided in (0, 2, 4)


@pytest.mark.parametrize("patients", [1, 2])
def test_few_patients_have_no_folds_and_it_is_said(patients):
    facts = Facts(labelled=4, unlabelled=30, patients=patients)
    plan = plan_of(2 * HOUR, facts=facts)
    assert plan.shape.folds == 0
    assert plan.shape.seeds == 2
    (said,) = unknown(plan.shape, facts, Recipe())
    assert f"of {patients} patient(s)" in said


def test_what_is_not_measured_is_said():
    plan = plan_of(2.5 * HOUR)
    assert plan.shape.second
    assert not plan.shape.checked
    assert any("second round" in line for line in unknown(plan.shape, FACTS, Recipe()))


def test_folds_are_never_more_than_patients():
    assert plan_of(8 * HOUR, facts=Facts(labelled=14, unlabelled=56, patients=3)).shape.folds == 3


def test_too_short_a_time_is_refused_with_one_that_is_enough():
    with pytest.raises(ValueError, match=r"time 1 min is too short: .* give --time (\d+)m or more") as error:
        plan_of(60)
    minutes = int(str(error.value).partition("--time ")[2].partition("m")[0])
    assert plan_of(60 * minutes).last >= 100


def test_the_last_training_takes_what_is_left():
    """Without Model B: start and calibration, 15 + 15 + 8 scans of 4 s. Five scans are kept apart: 15 + 5 x 4."""
    facts = Facts(labelled=8, unlabelled=62, patients=8, validation=5)
    second, first, none = (
        last_iterations(Shape(folds=4, second=second), facts, PACE, left=left, recipe=Recipe())
        for second, left in ((True, 5000), (False, 5000), (True, 0))
    )
    assert second == int((5000 - 62 - 35) / 0.6)
    assert first == int((5000 - 62 - 35) / (1.3 * 0.6))  # which goes on from a fold, so both kinds of scans teach it
    assert none == Recipe().least_iterations


def test_model_b_takes_its_share_of_what_is_left_and_then_the_rest():
    """Model A's start, Model B's start and calibration by both: 15 + 15 + 15 + 8 x 6 s; Model B has 12 of 48 %."""
    facts, shape = Facts(labelled=8, unlabelled=62, patients=8), Shape(folds=4, second=True, prompted=True)
    last = last_iterations(shape, facts, PACE, left=5000, recipe=Recipe())
    assert last == int((5000 - 93) * 36 / 48 / 0.6)
    assert prompt_iterations(shape, facts, PACE, left=1000, recipe=Recipe()) == int((1000 - 78) / (1.5 * 0.6))


def test_the_folds_models_learn_from_all_labelled_scans_before_they_label_others():
    """12 % of what is left for iterations, two models at once, 1.3 s each; none where no model labels anything."""
    plan, none = plan_of(4 * HOUR), plan_of(4 * HOUR, facts=Facts(labelled=8, unlabelled=0, patients=8, jobs=2))
    usable = 0.97 * 4 * HOUR - plan.overhead
    assert plan.complete == int(0.12 * usable / 2 / 1.3)
    assert none.complete == 0
    assert plan_of(4 * HOUR, recipe=Recipe(last_from="scratch")).complete == 0


@pytest.mark.parametrize("iterations", [1, 2, 7, 100, 1234])
def test_epochs(iterations):
    epochs, length, warmup = epochs_of(iterations, Recipe(warmup_patches=0))
    assert epochs <= 30
    assert abs(epochs * length - iterations) <= max(1, iterations / 50 + 15)
    assert warmup == pytest.approx(epochs / 3, abs=1)


@pytest.mark.parametrize(("iterations", "alone"), [(90, 90), (600, 300), (900, 300), (3000, 1000)])
def test_unlabelled_patches_wait_until_the_teacher_knows_something(iterations, alone):
    """1,200 labelled patches, four an iteration, or a third of the training."""
    epochs, length, warmup = epochs_of(iterations, Recipe(labeled_batch=2, unlabeled_batch=2))
    assert epochs * length == iterations
    assert warmup * length == alone


@pytest.mark.parametrize(("seconds", "scans"), [(220, "all labelled scans"), (1500, "and the unlabelled ones")])
def test_a_plan_names_unlabelled_scans_only_if_it_gets_to_them(seconds, scans):
    """Two patients, so no folds: 300 iterations of 0.6 s on labelled patches come first."""
    facts = Facts(labelled=2, unlabelled=62, patients=2)
    plan = plan_of(seconds, facts=facts, recipe=Recipe(short=HOUR))
    (step,) = (step for step in plan.steps if step.name == "last training")
    assert step.what.endswith(scans)


@pytest.mark.parametrize("iterations", [150, 299, 300, 301, 315, 316, 600])
def test_unlabelled_scans_are_learned_from_where_an_epoch_is_left_for_them(iterations):
    facts, recipe = Facts(labelled=2, unlabelled=62, patients=2), Recipe()
    epochs, _, warmup = epochs_of(iterations, recipe)
    shapes = {Shape(folds=0): warmup < epochs, Shape(folds=2): True, Shape(folds=2, second=True): False}
    for shape, gets_there in shapes.items():
        assert learns_unlabelled(iterations, shape=shape, facts=facts, recipe=recipe) == gets_there
    assert not learns_unlabelled(3000, shape=Shape(folds=0), facts=facts, recipe=Recipe(unlabeled_batch=0))


def test_no_scan_is_held_out_that_the_first_model_knows():
    facts = Facts(labelled=8, unlabelled=62, patients=8, known=3)
    plan = plan_of(8 * HOUR, facts=facts)
    assert (plan.shape.folds, plan.shape.seeds) == (0, 2)
    assert "has learned from 3 of the 8 labelled scans" in unknown(plan.shape, facts, Recipe())[0]


@pytest.mark.parametrize(("iterations", "seconds"), [(100, 200), (300, 600), (500, 1200), (1200, 3300)])
def test_the_tempo_of_a_training_whose_first_iterations_are_faster(iterations, seconds):
    """2 s for a quarter of them, or for the first 300 at least; then 3 s. Of 1,200 iterations 300 are a quarter."""
    tempo = Tempo(3, 2, share=0.25, least=300)
    assert tempo.seconds(iterations) == pytest.approx(seconds)
    assert tempo.iterations(tempo.seconds(iterations)) == pytest.approx(iterations)
    assert tempo.iterations(tempo.seconds(2000)) == pytest.approx(2000)


def test_a_plan_survives_a_file():
    plan = plan_of(HOUR)
    assert TimePlan.from_json(plan.as_json()) == plan
    assert math.isclose(plan.seconds, sum(step.seconds for step in plan.steps))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fold": 3}, "no option --recipe#fold; did you mean --recipe#folds"),
        ({"folds": 1}, "recipe#folds 1 must be a whole number from 2 on"),
        ({"last_from": "b"}, "recipe#last_from 'b' must be 'scratch' or 'earlier'"),
        ({"first_share": 0.8, "check_share": 0.3}, "leave nothing for the last training"),
        ({"one_fold_share": 0.9}, "recipe#one_fold_share 0.9 and prompt_share 0.12 leave nothing for the last"),
        ({"judge_share": 0.4, "prompt_share": 0.3}, "leave nothing for the last training"),
        ("folds=3", "must be an object"),
    ],
)
def test_a_recipe_is_checked(given, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(given)


def test_on_a_cpu_batches_are_small_unless_it_is_said_otherwise():
    assert recipe_of(on_gpu=False) == Recipe(labeled_batch=1, unlabeled_batch=1)
    assert recipe_of({"labeled_batch": 3}, on_gpu=False).labeled_batch == 3


def test_a_recipe_is_changed_by_name():
    assert recipe_of({"folds": 3, "short": "60"}) == Recipe(folds=3, short=60.0)
