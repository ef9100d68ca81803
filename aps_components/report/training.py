"""The report of a training: what its folder holds, in a page. What is not there is left out, or said to be unknown."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aps_components.files import real
from aps_components.plain_json import read_object
from aps_components.report.blocks import Block, Commands, Facts, Page, Section, Table, Text
from aps_components.report.cases import by_case, by_class, matrices
from aps_components.report.evaluated import METRICS_FILE, PREDICTOR_NAMES, Evaluated
from aps_components.report.page import REPORT_FILE, drawn, picture_file, worst_error, write_page
from aps_components.report.reading import (
    UNKNOWN,
    duration,
    facts,
    known,
    mapping,
    mean,
    middle,
    number,
    objects,
    spread,
    text,
    worst_first,
)
from aps_components.training.history import HISTORY_FILE, read_history
from aps_components.training.progress import progress_figure
from aps_components.uncertainty import DEFINITIONS

TRAINING_FILE = "training.json"
WORK = "work"  # of a whole training, below its folder
UNCERTAINTY_FILE = "report.json"  # of `aps uncertainty`
MOST_PICTURES = 12
OVER_CASES = "mean over the classes of each, then mean ± deviation over the cases."
# The names of the choices that say how the model that is kept answers.
PREDICTOR, WINDOWS, CALIBRATION, ROUND = "predictor", "windows", "calibration", "second round"
YES = "yes"
VALIDATION = -1  # the fold of scans that the dataset itself keeps apart: the kept model answers them


class Kind(NamedTuple):
    """How a labelled scan was answered by a model that did not learn from it."""

    round: int
    predictor: str
    calibrated: bool
    mirrored: bool

    @property
    def words(self) -> str:
        """For a reader."""
        extras = (", calibrated" if self.calibrated else "") + (", windows turned" if self.mirrored else "")
        return f"round {self.round}, {PREDICTOR_NAMES.get(self.predictor, self.predictor)}{extras}"


class HeldOut(NamedTuple):
    """Figures of scans that models did not learn from, by case and class."""

    dice: dict[tuple[str, str], float | None]
    nsd: dict[tuple[str, str], float | None]
    pictures: dict[str, Path]
    files: list[Path]  # of the evaluations that say them


def write_training_report(out: str | os.PathLike[str]) -> Path:
    """Write ``OUT/report.html`` from ``OUT/training.json``, and the histories and evaluations below the folder.

    Args:
        out: the folder of a training.

    Returns:
        The report.

    Raises:
        FileNotFoundError: the folder has no ``training.json``.
        FileExistsError: a file of the report's name is there that is none.
        ValueError: the file is no JSON object.
    """
    folder = Path(out)
    content = read_object(folder / TRAINING_FILE)
    answers, classes = held_out(content, folder), class_names(content)
    apart = held_out(content, folder, validation=True)
    evaluations = _evaluations(folder)
    kept, chosen = (chosen_kind(content, list(found)) for found in (apart, answers))
    sections = [
        Section("Data and plan", _plan(content)),
        Section("Curves", _curves(folder)),
        *_validation_sections(apart, kept, classes),
        *_held_out_sections(answers, chosen, classes, _unknown(content)),
        *_agreement_sections(apart, kept, "validation scans"),
        *(_agreement_sections(answers, chosen, "labelled scans, held out") if kept is None else []),
        *(section for name, found in evaluations.items() for section in found.sections(name=name)),
        Section("How the uncertainty was checked", _uncertainty(folder)),
        Section("What each round and choice gave", _choices(content, answers, classes)),
        Section("Time and machine", _machine(content)),
        Section("The commands that repeat it", _commands(content)),
    ]
    page = Page(
        title=f"Training: {_name(content, folder)}",
        about="What there was to learn from, how well the model does on other scans, and how to repeat it.",
        headline=_headline(kept and apart[kept], chosen and answers[chosen], evaluations),
        sections=[section for section in sections if section.blocks],
    )
    return write_page(folder / REPORT_FILE, page)


def held_out(content: Mapping[str, Any], folder: Path, *, validation: bool = False) -> dict[Kind, HeldOut]:
    """The figures of labelled scans by how they were answered, in the order of rounds and predictors.

    Args:
        content: of ``training.json``.
        folder: in which pictures may lie.
        validation: those that the dataset keeps apart, which the kept model answers; or else those that the models of
            folds answer.
    """
    found: dict[Kind, HeldOut] = {}
    entries = [e for e in objects(content.get("held_out")) if (e.get("fold") == VALIDATION) == validation]
    for entry in entries:
        case, turn = entry.get("case"), number(entry.get("round"))
        if not isinstance(case, str) or not mapping(entry.get("dice")):
            continue
        extras = (entry.get(extra) is True for extra in ("calibrated", "mirrored"))
        kind = Kind(int(turn or 1), str(entry.get("predictor", UNKNOWN)), *extras)
        figures = found.setdefault(kind, HeldOut({}, {}, {}, []))
        if (evaluation := _evaluation_file(folder, entry.get("evaluation"))) and evaluation not in figures.files:
            figures.files.append(evaluation)
        for metric in ("dice", "nsd"):
            values = mapping(entry.get(metric))
            getattr(figures, metric).update({(case, str(label)): number(value) for label, value in values.items()})
        if file := picture_file(folder, entry.get("picture")):
            figures.pictures[case] = file
    return dict(sorted(found.items()))


def chosen_kind(content: Mapping[str, Any], kinds: Sequence[Kind]) -> Kind | None:
    """Of the answers that were measured, that which is nearest to how the model that is kept answers."""
    if not kinds:
        return None
    chosen = {str(entry.get("name")): entry.get("chosen") for entry in objects(content.get("choices"))}
    last = max(kind.round for kind in kinds)
    wanted = Kind(
        round=last if chosen.get(ROUND, YES) == YES else 1,
        predictor=str(chosen.get(PREDICTOR, "average")),
        calibrated=chosen.get(CALIBRATION) == YES,
        mirrored=chosen.get(WINDOWS) == YES,
    )
    return min(kinds, key=lambda kind: [one != other for one, other in zip(kind, wanted, strict=True)])


def class_names(content: Mapping[str, Any]) -> dict[str, str]:
    """Name by class value, as texts; empty where the plan does not say."""
    plan = mapping(content.get("plan"))
    for part in ("bundle", "data"):
        if labels := mapping(mapping(plan.get(part)).get("labels")):
            return {str(value): str(name) for value, name in labels.items()}
    return {}


def _name(content: Mapping[str, Any], folder: Path) -> str:
    data = mapping(mapping(content.get("plan")).get("data"))
    return str(data.get("name") or real(folder).name)


def _headline(
    apart: HeldOut | None, answers: HeldOut | None, evaluations: Mapping[str, Evaluated]
) -> list[tuple[str, str]]:
    """Of the scans kept apart for validation, of the labelled ones held out, and of the first evaluation."""
    figures = []
    scans = {
        "validation scans, by this model": apart,
        "labelled scans, by models that did not learn from them": answers,
    }
    for said, found in scans.items():
        if found is not None:
            dice = by_case(found.dice)
            figures.append((f"{spread(map(mean, dice.values()))} %", f"Dice of {len(dice)} {said}"))
    of_others = [found for found in evaluations.values() if found.context.get("split") != "training"]
    for evaluated in of_others[:1]:  # what the model learned from says nothing of other scans
        figures += evaluated.headline()
    return figures


def _plan(content: Mapping[str, Any]) -> list[Block]:
    plan = mapping(content.get("plan"))
    blocks: list[Block] = []
    for part in ("data", "bundle"):
        if found := facts(plan.get(part)):
            blocks.append(Facts(found))
    planned = [
        [text(part.get("name")), text(part.get("what", "")), duration(number(part.get("seconds")))]
        for part in objects(plan.get("stages"))
    ]
    if planned:
        blocks.append(Table(["planned", "what", "time"], planned, names=2))
    ran = [
        [
            text(stage.get("name")),
            duration(number(stage.get("seconds"))),
            "done" if stage.get("done") is True else "not done",
        ]
        for stage in objects(content.get("stages"))
    ]
    if ran:
        blocks.append(Table(["what ran", "took", ""], ran))
    return blocks or [Text("The plan is unknown: training.json holds none.")]


def _curves(folder: Path) -> list[Block]:
    blocks: list[Block] = []
    for file in sorted(folder.rglob(HISTORY_FILE)):
        where = _below(file, folder)
        try:
            history = read_history(file, keys=("losses",))
            picture = (
                drawn(progress_figure(history), f"Losses, validation and pace of {where}", where) if history else None
            )
        except (KeyError, TypeError, ValueError) as error:
            blocks.append(Text(f"{where}: its history cannot be drawn ({type(error).__name__}: {error})."))
            continue
        if picture is not None:
            blocks.append(picture)
    return blocks


def _validation_sections(apart: Mapping[Kind, HeldOut], kept: Kind | None, names: Mapping[str, str]) -> list[Section]:
    """Of the kept model itself."""
    if kept is None:
        return []
    intro = (
        "The dataset keeps these scans apart; no training saw them, and the model that is kept answers them. Shown by "
        f"class and case: {PREDICTOR_NAMES.get(kept.predictor, kept.predictor)}, which answers by default."
    )
    words = {PREDICTOR_NAMES.get(kind.predictor, kind.predictor): found for kind, found in apart.items()}
    table = _compared(words, names, note=OVER_CASES)
    return [
        Section("Validation scans", [Text(intro), table, *_figures(apart[kept], names)]),
        Section("The worst of the validation scans", _pictures(apart[kept])),
    ]


def _figures(found: HeldOut, names: Mapping[str, str]) -> list[Block]:
    """By class, and by case and class."""
    dice, surface = (_named(figures, names) for figures in (found.dice, found.nsd))
    rows = [
        [name, *(figure(by_class(dice)[name]) for figure in (spread, middle)), spread(by_class(surface).get(name, []))]
        for name in worst_first(by_class(dice))
    ]
    note = "Mean ± deviation over the cases; the worst first."
    classes = list(dict.fromkeys(name for _, name in dice))
    return [
        Table(["class", "Dice %", "median", "NSD %"], rows, note=note),
        *matrices({"Dice": dice, "NSD": surface}, classes),
    ]


def _compared(answers: Mapping[str, HeldOut], names: Mapping[str, str], *, note: str) -> Table:
    """By who answered: the number of cases, and Dice and NSD over them."""
    rows = []
    for who, found in answers.items():
        dice, surface = (by_case(_named(figures, names)) for figures in (found.dice, found.nsd))
        rows.append([who, str(len(dice)), *(spread(map(mean, part.values())) for part in (dice, surface))])
    return Table(["answered by", "cases", "Dice %", "NSD %"], rows, note=note)


def _held_out_sections(
    answers: Mapping[Kind, HeldOut], chosen: Kind | None, names: Mapping[str, str], unknown: Sequence[Text]
) -> list[Section]:
    if chosen is None:
        nothing = (
            "No labelled scan was kept back from a training: how well the model does on new scans is unknown here."
        )
        return [Section("Labelled scans, held out", [Text(nothing), *unknown])]
    found = answers[chosen]
    intro = (
        "These scans are answered by models that did not learn from them. The figures are of those models, each "
        f"trained with fewer labels than the one that is kept. Shown: {chosen.words}."
    )
    return [
        Section("Labelled scans, held out", [Text(intro), *unknown, *_figures(found, names)]),
        Section("The worst of the held-out scans", _pictures(found)),
    ]


def _agreement_sections(answers: Mapping[Kind, HeldOut], kind: Kind | None, name: str) -> list[Section]:
    """Volumes and calibration of the answers of a kind, as their evaluations measured them."""
    if kind is None:
        return []
    parts = []
    for file in answers[kind].files:
        try:
            found = Evaluated.read(file, predictor=kind.predictor)
        except ValueError:
            continue  # damaged since
        parts += [] if found is None else [found]
    return Evaluated.together(parts).agreement_sections(name=name) if parts else []


def _evaluation_file(folder: Path, named: Any) -> Path | None:
    """The figures of an evaluation below the folder of the training, and of no other one."""
    if not isinstance(named, str):
        return None
    file = real(folder / named / METRICS_FILE)
    return file if file.is_file() and file.is_relative_to(real(folder)) else None


def _pictures(found: HeldOut) -> list[Block]:
    """Of the cases with the lowest Dice."""
    dice = by_case(found.dice)
    pictures: list[Block] = []
    for case in worst_first(dice):
        if (file := found.pictures.get(case)) and len(pictures) < MOST_PICTURES:
            pictures += worst_error(file, case, mean(dice[case]))
    return pictures


def _unknown(content: Mapping[str, Any]) -> list[Text]:
    """What the plan says that no figure of this training can tell."""
    said = mapping(content.get("plan")).get("unknown")
    return [Text(text(sentence)) for sentence in said] if isinstance(said, list) else []


def _named(
    figures: Mapping[tuple[str, str], float | None], names: Mapping[str, str]
) -> dict[tuple[str, str], float | None]:
    return {(case, names.get(label, label)): value for (case, label), value in figures.items()}


def _evaluations(folder: Path) -> dict[str, Evaluated]:
    """Those below the folder, by where they lie; without those by which a whole training judges its rounds."""
    found = {}
    for file in sorted(file for file in folder.rglob(METRICS_FILE) if file.relative_to(folder).parts[0] != WORK):
        try:
            evaluated = Evaluated.read(file)
        except ValueError:
            continue  # a file of that name that is somebody else's
        if evaluated is not None:
            found[_below(file, folder)] = evaluated
    return found


def _uncertainty(folder: Path) -> list[Block]:
    """What ``aps uncertainty`` found, where it was run."""
    blocks: list[Block] = []
    for file in sorted(folder.rglob(UNCERTAINTY_FILE)):
        try:
            models = objects(read_object(file).get("models"))
        except ValueError:
            continue
        for model in models:
            detection = mapping(mapping(model.get("summary")).get("detection"))
            rows = [
                [definition.title, definition.kind, f"{value:.3f}"]
                for name, definition in DEFINITIONS.items()
                if (value := _auroc(mapping(detection.get(name)))) is not None
            ]
            if rows:
                what = f"{_below(file, folder)}, {text(model.get('name'))}"
                note = f"{what}: near surfaces; 0.5 is chance, 1 finds every error."
                blocks.append(Table(["map", "kind", "AUROC of errors"], rows, names=2, note=note))
    return blocks


def _auroc(areas: Mapping[str, Any]) -> float | None:
    return number(mapping(mapping(areas.get("band")).get("auroc")).get("mean"))


def _choices(content: Mapping[str, Any], answers: Mapping[Kind, HeldOut], names: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = []
    if answers:
        words = {kind.words: found for kind, found in answers.items()}
        blocks.append(_compared(words, names, note=f"Of the held-out labelled scans: {OVER_CASES}"))
    chosen = [
        [
            text(entry.get("name")),
            text(entry.get("chosen")),
            "; ".join(f"{option} {_figure(value)}" for option, value in mapping(entry.get("figures")).items())
            or UNKNOWN,
            text(entry.get("note") or ""),
        ]
        for entry in objects(content.get("choices"))
    ]
    if chosen:
        blocks.append(Table(["choice", "chosen", "measured, %", "why"], chosen, names=4))
    return blocks


def _figure(value: Any) -> str:
    found = number(value)
    return UNKNOWN if found is None else f"{found:.2f}"


def _machine(content: Mapping[str, Any]) -> list[Block]:
    seconds = known(number(stage.get("seconds")) for stage in objects(content.get("stages")))
    planned = number(mapping(content.get("plan")).get("seconds"))
    times = [
        ("planned", duration(planned)),
        ("took", duration(number(content.get("worked")))),
        ("all commands, those beside each other added up", duration(sum(seconds) if seconds else None)),
    ]
    return [Facts([*times, *facts(content.get("machine")), *facts(content.get("versions"))])]


def _commands(content: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    if typed := text(content.get("command") or ""):
        blocks += [Text("All of it"), Commands([typed])]
    for stage in objects(content.get("stages")):
        command = stage.get("command")
        if isinstance(command, list) and command:
            blocks += [Text(text(stage.get("name"))), Commands([shlex.join(map(str, command))])]
    return blocks


def _below(file: Path, folder: Path) -> str:
    return file.parent.relative_to(folder).as_posix()
