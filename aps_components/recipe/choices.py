"""What is decided by scans that a model did not learn from: who answers, how, and whether a second round is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from aps_components.recipe.results import ChoiceRecord, HeldOut
from aps_components.report.training import CALIBRATION, PREDICTOR, ROUND, WINDOWS, YES

PREDICTORS = ("a", "average", "b")  # the first is taken where the others are no better
NO = "no"
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How the model of the bundle answers."""

    predictor: str = PREDICTORS[0]
    mirrored: bool = False
    calibrated: bool = False


def choose_answer(
    held_out: Sequence[HeldOut], *, least_gain: float, can_mirror: bool = True
) -> tuple[Answer, list[ChoiceRecord]]:
    """By Model A's answers to the first round's held-out scans: calibration, then whether windows are turned.

    Calibration, which costs no time in inference, is taken where it is better at all; turned windows, which double it,
    where they bring ``least_gain`` Dice points. What was not measured stays as it is by default: offsets on whole scans
    are a mend for too large volumes, and are taken.

    Args:
        held_out: of all trainings.
        least_gain: Dice points.
        can_mirror: whether training flips patches; there is no choice of windows otherwise.
    """
    first = [entry for entry in held_out if entry.round == 1]
    if not first:
        note = f"{NOT_MEASURED}: no scan was held out"
        unmeasured = [(CALIBRATION, YES), *([(WINDOWS, NO)] if can_mirror else [])]
        return Answer(calibrated=True), [
            ChoiceRecord(name=name, chosen=chosen, figures={}, note=note) for name, chosen in unmeasured
        ]
    predictor = PREDICTORS[0]
    calibrated, by_calibration = _better(
        CALIBRATION,
        first,
        lambda entry: _is(entry, predictor),
        lambda entry: entry.calibrated,
        least=0.0,
        otherwise=True,
    )
    mirrored, by_windows = _better(
        WINDOWS,
        first,
        lambda entry: entry.predictor == predictor and not entry.calibrated,
        lambda entry: entry.mirrored,
        least=least_gain,
        otherwise=False,
    )
    answer = Answer(predictor=predictor, mirrored=mirrored, calibrated=calibrated)
    return answer, [by_calibration, *([by_windows] if can_mirror else [])]


def calibrated_after_all(record: ChoiceRecord) -> ChoiceRecord:
    """The choice of offsets, of a model that gets them whatever the first round said; any other stays."""
    if record.name != CALIBRATION:
        return record
    return replace(record, chosen=YES, note=f"first round: {record.note}; a second round gets its offsets afterwards")


def choose_predictor(
    held_out: Sequence[HeldOut], *, answer: Answer, round: int, least_gain: float
) -> tuple[str, ChoiceRecord]:
    """Whether Model A, Model B or their average answers, by the scans that all three were measured on.

    Model A answers unless another brings ``least_gain`` Dice points: the others take twice as long.

    Args:
        held_out: of all trainings.
        answer: as Model A answers.
        round: in which Model B was judged: 2 where folds have a second round.
        least_gain: Dice points.
    """
    plain = [e for e in held_out if e.round == round and e.calibrated == answer.calibrated and not e.mirrored]
    dice = {name: {e.case: e for e in plain if e.predictor == name} for name in PREDICTORS}
    scans = set.intersection(*(set(found) for found in dice.values()))
    default = PREDICTORS[0]
    if not scans:
        return default, ChoiceRecord(name=PREDICTOR, chosen=default, figures={}, note=NOT_MEASURED)
    figures = {name: float(f"{mean_dice(found[scan] for scan in sorted(scans)):.2f}") for name, found in dice.items()}
    best = max(figures, key=lambda name: figures[name])
    chosen = best if figures[best] - figures[default] >= least_gain else default
    note = f"on {len(scans)} held-out scans; Model A answers unless another is {least_gain:g} better"
    return chosen, ChoiceRecord(name=PREDICTOR, chosen=chosen, figures=figures, note=note)


def choose_round(
    held_out: Sequence[HeldOut], *, answer: Answer, possible: bool, unlabelled: int, least_teacher: float
) -> tuple[bool, ChoiceRecord]:
    """Whether the last training learns from labels by models: scan by scan against the first round.

    Where no second round was measured, the first one's models say whether their labels are good enough to learn from.

    Args:
        held_out: of both rounds; of the second one only as its models answer.
        answer: as first-round models answer.
        possible: there are scans without a label, and time.
        unlabelled: how many of these there are.
        least_teacher: Dice, in percent, that the first round must have on held-out scans.
    """
    if not possible:
        why = "no time for it" if unlabelled else "there are no unlabelled scans"
        return False, ChoiceRecord(name=ROUND, chosen=NO, figures={}, note=why)
    of_both = [e for e in held_out if _is(e, answer.predictor) and (e.round == 2 or e.calibrated == answer.calibrated)]
    teacher = mean_dice(entry for entry in of_both if entry.round == 1)
    good = not teacher < least_teacher  # also where nothing was held out
    kept, record = _better(ROUND, of_both, lambda _: True, lambda entry: entry.round == 2, least=0.0, otherwise=good)
    if record.figures or good:
        return kept, record
    reason = f"the first round has {teacher:.1f} on held-out scans, and below {least_teacher:g} its labels teach errors"
    return kept, replace(record, note=f"{record.note}; {reason}")


def mean_dice(entries: Iterable[HeldOut]) -> float:
    """In percent, of each scan the mean over its classes first; NaN of none."""
    values = [entry.mean_dice for entry in entries]
    defined = [value for value in values if not math.isnan(value)]
    return 100 * fmean(defined) if defined else math.nan


def answered_so(held_out: Iterable[HeldOut], answer: Answer, *, round: int) -> list[HeldOut]:
    """The entries that are nearest to how the bundle answers: those of its predictor, with all of its extras that were
    measured together."""
    of_round = [entry for entry in held_out if entry.round == round and entry.predictor == answer.predictor]
    for calibrated, mirrored in ((answer.calibrated, answer.mirrored), (answer.calibrated, False), (False, False)):
        if found := [e for e in of_round if (e.calibrated, e.mirrored) == (calibrated, mirrored)]:
            return found
    return of_round


def _is(entry: HeldOut, predictor: str) -> bool:
    return entry.predictor == predictor and not entry.mirrored


def _better(
    name: str,
    entries: Sequence[HeldOut],
    among: Callable[[HeldOut], bool],
    has_it: Callable[[HeldOut], bool],
    *,
    least: float,
    otherwise: bool,
) -> tuple[bool, ChoiceRecord]:
    """Whether something brings more than ``least`` points, scan by scan; ``otherwise`` where it was not measured."""
    pairs = _pairs([entry for entry in entries if among(entry)], has_it)
    if not pairs:
        return otherwise, ChoiceRecord(name=name, chosen=YES if otherwise else NO, figures={}, note=NOT_MEASURED)
    gains = [100 * (with_it - without) for without, with_it in pairs]
    gain = fmean(gains)
    spread = f" (standard error {stdev(gains) / math.sqrt(len(gains)):.2f})" if len(gains) > 1 else ""
    chosen = gain > 0 and gain >= least
    figures = {NO: round(100 * fmean(x for x, _ in pairs), 2), YES: round(100 * fmean(x for _, x in pairs), 2)}
    note = f"{gain:+.2f} points{spread} on {len(pairs)} held-out scans"
    return chosen, ChoiceRecord(name=name, chosen=YES if chosen else NO, figures=figures, note=note)


def _pairs(entries: Sequence[HeldOut], has_it: Callable[[HeldOut], bool]) -> list[tuple[float, float]]:
    """Of each scan that was answered both without and with something, both figures."""
    without = {entry.case: entry.mean_dice for entry in entries if not has_it(entry)}
    with_it = {entry.case: entry.mean_dice for entry in entries if has_it(entry)}
    both = [(without[case], with_it[case]) for case in without if case in with_it]
    return [pair for pair in both if not any(map(math.isnan, pair))]
