"""What the demo prints at its end comes from the files that the bundle's commands wrote."""

from pathlib import Path

import numpy as np
import pytest

from aps_components.demo import _summary
from aps_components.evaluation import EvaluationReport, case_metrics


def test_the_summary_reads_the_evaluations_own_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.zeros((7, 11, 13), dtype=np.uint8)
    truth[2:5, 3:7, 4:9] = 1
    report = EvaluationReport()
    report.add("case", case_metrics(truth, truth, labels={0: "background", 1: "atrium"}, spacing=(1.0, 1.0, 1.0)))
    report.write(tmp_path / "results" / "evaluation", context={"cases": 1})
    _summary(tmp_path, tmp_path / "overview.png", 90.0)
    printed = capsys.readouterr().out
    assert "done in 1.5 minutes; mean over 1 phantoms" in printed
    assert "average  raw                Dice 100.00 %  HD95  0.00 mm" in printed
    assert str(tmp_path / "overview.png") in printed
