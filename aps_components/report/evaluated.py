"""The parts of a report that come from what an evaluation wrote: ``metrics.json`` and pictures of the worst cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from aps_components.evaluation.metrics import NSD_TOLERANCE_MM
from aps_components.plain_json import read_object
from aps_components.report.agreement import agreement, pooled, relative, signed_percent
from aps_components.report.blocks import Block, Section, Table, Text
from aps_components.report.cases import by_case, by_class, matrices
from aps_components.report.page import drawn, picture_file, worst_error
from aps_components.report.plots import LIMITS, doubt_figure, reliability_figure, volumes_figure
from aps_components.report.reading import (
    UNKNOWN,
    known,
    mapping,
    mean,
    middle,
    number,
    objects,
    percent,
    spread,
    text,
    worst_first,
)

METRICS_FILE = "metrics.json"
PREDICTOR_NAMES = {"average": "the average of Models A and B", "a": "Model A", "b": "Model B"}
VARIANT_NAMES = {"raw": "", "largest_component": ", without the pieces that inference drops"}
CASES_FOR_RANKS = 4  # fewer have no order that says anything


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, by the answer that inference gives.

    Attributes:
        folder: of its files.
        context: what was evaluated.
        predictor, variant: whose answer it is, and whether cleaned.
        classes: their names.
        rows: by case and class.
        scans: what is known of each case as a whole.
    """

    folder: Path
    context: Mapping[str, Any]
    predictor: str
    variant: str
    classes: list[str]
    rows: Mapping[tuple[str, str], Mapping[str, Any]]
    scans: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, file: Path, *, predictor: str | None = None) -> Evaluated | None:
        """From a ``metrics.json``; None where it holds no case.

        Args:
            file: as an evaluation wrote it.
            predictor: whose answers; by default that which inference gives.

        Raises:
            ValueError: it is none.
        """
        content = read_object(file, keys=("context", "cases"))
        context, every = mapping(content["context"]), objects(content["cases"])
        rows = [row for row in every if all(isinstance(row.get(key), str) for key in ("case", "class", "predictor"))]
        if not rows:
            return None
        wanted = predictor or context.get("inference_predictor", "average")
        predictors = list(dict.fromkeys(row["predictor"] for row in rows))
        predictor = wanted if wanted in predictors else predictors[0]
        variant = context.get("inference_variant", "raw")
        chosen = [row for row in rows if (row["predictor"], row.get("variant")) == (predictor, variant)]
        return cls(
            folder=file.parent,
            context=context,
            predictor=predictor,
            variant=str(variant),
            classes=list(dict.fromkeys(row["class"] for row in chosen)),
            rows={(row["case"], row["class"]): row for row in chosen},
            scans={scan["case"]: scan for scan in objects(content.get("scans")) if isinstance(scan.get("case"), str)},
        )

    @classmethod
    def together(cls, parts: Sequence[Evaluated]) -> Evaluated:
        """Several evaluations of the same classes as one, such as those of folds; of a case the first one counts."""
        rows = {key: row for part in reversed(parts) for key, row in part.rows.items()}
        scans = {case: scan for part in reversed(parts) for case, scan in part.scans.items()}
        return replace(parts[0], rows=rows, scans=scans)

    @property
    def cases(self) -> list[str]:
        """The lowest mean Dice first."""
        return worst_first(by_case(self.figures("dice")))

    def figures(self, name: str) -> dict[tuple[str, str], float | None]:
        """A metric by case and class."""
        return {key: number(row.get(name)) for key, row in self.rows.items()}

    @property
    def answer(self) -> str:
        """In words."""
        return PREDICTOR_NAMES.get(self.predictor, self.predictor) + VARIANT_NAMES.get(self.variant, "")

    def line(self) -> str:
        """Whose answer it is, and mean Dice by class, in one line."""
        dice = self.figures("dice")
        one = [f"{name} {percent(mean(values))}" for name, values in by_class(dice).items()]
        classes = f" ({', '.join(one)})" if len(one) > 1 else ""
        whole = percent(mean([mean(values) for values in by_case(dice).values()]))
        return f"Dice of {self.answer}: {whole} % over {len(self.cases)} scans{classes}"

    def headline(self) -> list[tuple[str, str]]:
        """Mean Dice, NSD and how many cases."""
        dice, surface = (by_case(self.figures(name)) for name in ("dice", "nsd"))
        entries = [(f"{spread(map(mean, dice.values()))} %", "Dice, mean ± deviation over the cases")]
        if known(map(mean, surface.values())):
            entries.append((f"{spread(map(mean, surface.values()))} %", f"NSD at {NSD_TOLERANCE_MM:g} mm"))
        return [*entries, (str(len(dice)), f"cases of the {text(self.context.get('split', UNKNOWN))} part")]

    def sections(self, *, name: str = "") -> list[Section]:
        """Everything that is known; parts without figures are left out.

        Args:
            name: after each title, where a report has several evaluations.
        """
        figures = {"Dice and NSD by class and case": self._metrics(), "The worst cases": self._pictures()}
        return [*_titled(figures, name), *self.agreement_sections(name=name)]

    def agreement_sections(self, *, name: str = "") -> list[Section]:
        """How volumes and probabilities agree with the truth; parts without figures are left out."""
        parts = {
            "Volumes against truth": self._volumes(),
            "Uncertainty and calibration": [*self._calibration(), *self._doubts()],
        }
        return _titled(parts, name)

    def _metrics(self) -> list[Block]:
        dice, surface = self.figures("dice"), self.figures("nsd")
        head = ["class", "cases", "Dice %", "median", "NSD %", "HD95 mm", "worst case"]
        distances = self.figures("hd95_mm")
        rows = []
        for name in worst_first(by_class(dice)):
            of_class = {case: value for (case, other), value in dice.items() if other == name}
            figures = [spread(by_class(dice)[name]), middle(by_class(dice)[name]), spread(by_class(surface)[name])]
            worst = worst_first({case: [value] for case, value in of_class.items()})[0]
            apart = spread(by_class(distances)[name], factor=1)
            rows.append([name, str(len(of_class)), *figures, apart, f"{worst} ({percent(of_class[worst])})"])
        note = (
            f"Answer: {self.answer}. Mean ± standard deviation over the cases, the worst class first. NSD: the share "
            f"of both surfaces within {NSD_TOLERANCE_MM:g} mm of each other. Distances where one of the two masks is "
            "empty are left out."
        )
        return [Table(head, rows, note=note), *matrices({"Dice": dice, "NSD": surface}, self.classes)]

    def _pictures(self) -> list[Block]:
        blocks: list[Block] = []
        for case in self.cases:
            file = picture_file(self.folder, mapping(self.scans.get(case)).get("picture"))
            if file:
                blocks += worst_error(file, case, mean(by_case(self.figures("dice"))[case]))
        if not blocks:
            return []
        text = (
            "The lowest Dice first. Each in the axial, the coronal and the sagittal plane, at its true proportions, "
            "through the voxel in the thickest part of the error. In colour: the answer; dashed, white: the truth."
        )
        return [Text(text), *blocks]

    def _volumes(self) -> list[Block]:
        found = self._millilitres()
        if not found:
            return []
        volumes = {
            name: [pair for (_, other), pair in found.items() if other == name]
            for name in self.classes
            if any(other == name for _, other in found)
        }
        picture = drawn(
            volumes_figure(volumes),
            "The answer's volumes against the true ones, and the differences of the two against their mean",
            "Left: on the line both are the same. Right: above 0 the answer is too large."
            + (" Orange: mean difference, and the limits of agreement." if len(volumes) == 1 else ""),
        )
        agreements = [[name, str(len(pairs)), *agreement(pairs)] for name, pairs in volumes.items()]
        head = ["class", "cases", "truth, mean ml", "answer, mean ml", "difference, mean ml", "limits of agreement, ml"]
        note = f"Limits of agreement: mean difference ± {LIMITS:g} standard deviations (Bland and Altman)."
        ranked = sorted(found.items(), key=lambda entry: -abs(relative(entry[1])))
        rows = [
            [case, name, f"{true:.4g}", f"{said:.4g}", f"{said - true:+.3g}", signed_percent(relative((true, said)))]
            for (case, name), (true, said) in ranked
        ]
        cases = Table(
            ["case", "class", "truth, ml", "answer, ml", "difference, ml", "of the truth, %"],
            rows,
            names=2,
            note="The largest difference, as a share of the truth, first.",
        )
        return [picture, Table(head, agreements, note=note), cases]

    def _millilitres(self) -> dict[tuple[str, str], tuple[float, float]]:
        """True and the answer's volume by case and class."""
        found = {}
        for (case, name), row in self.rows.items():
            voxel = number(mapping(self.scans.get(case)).get("voxel_ml"))
            true, said = number(row.get("truth_voxels")), number(row.get("prediction_voxels"))
            if voxel is not None and true is not None and said is not None:
                found[case, name] = (true * voxel, said * voxel)
        return found

    def _calibration(self) -> list[Block]:
        measured = {case: mapping(scan.get("calibration")) for case, scan in self.scans.items()}
        bins = pooled(list(measured.values()))
        if not bins:
            return []
        first = next(iter(measured.values()))
        ece, over = ([number(entry.get(key)) for entry in measured.values()] for key in ("ece", "overconfidence"))
        note = (
            f"Of the answer's likeliest class, at voxels within {text(first.get('band_mm'))} mm of a surface of the "
            "truth or of the answer. On the grey line probabilities are what they say; below it the model promises "
            "more than it keeps."
        )
        rows = [
            ["expected calibration error (ECE)", spread(ece)],
            ["over-confidence: mean confidence minus accuracy", spread(over)],
        ]
        table = Table(["measure", "percentage points, mean ± deviation over the cases"], rows)
        return [drawn(reliability_figure(bins), "Accuracy against confidence", note), table]

    def _doubts(self) -> list[Block]:
        dice = {case: mean(values) for case, values in by_case(self.figures("dice")).items()}
        doubts = {
            case: number(mapping(scan.get("uncertainty")).get("epistemic"))
            for case, scan in self.scans.items()
            if dice.get(case) is not None
        }
        both = [(value, dice[case]) for case, value in doubts.items() if value is not None]
        if not both or len({value for value, _ in both}) < 2:
            return []
        ranked = sorted(known_items(doubts), key=lambda entry: -entry[1])
        rows = [[case, f"{value:.3g}", percent(dice[case])] for case, value in ranked]
        table = Table(
            ["case", "epistemic uncertainty", "Dice %"],
            rows,
            note="Mean of the map over what is segmented, in the model's own unit; the most doubtful case first.",
        )
        picture = drawn(
            doubt_figure([value for value, _ in both], [value or 0 for _, value in both]),
            "Dice of each case against its mean epistemic uncertainty",
            _rank_correlation(both),
        )
        return [picture, table]


def _rank_correlation(both: Sequence[tuple[float, float | None]]) -> str:
    if len(both) < CASES_FOR_RANKS or len({dice for _, dice in both}) < 2:
        return f"{len(both)} cases: too few to say whether doubtful cases are worse."
    rho = float(spearmanr(*np.array(both, dtype=float).T).statistic)
    return (
        f"Rank correlation (Spearman) {rho:+.2f} over {len(both)} cases: at -1 the uncertainty orders the cases by "
        "their Dice, at 0 it says nothing of them."
    )


def known_items(values: Mapping[str, float | None]) -> list[tuple[str, float]]:
    """Names and values that are not None."""
    return [(name, value) for name, value in values.items() if value is not None]


def _titled(parts: Mapping[str, list[Block]], name: str) -> list[Section]:
    """Those that have something to show, named after the evaluation where a report has several."""
    after = f", {name}" if name else ""
    return [Section(title + after, blocks) for title, blocks in parts.items() if blocks]
