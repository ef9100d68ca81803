"""``aps evaluate``."""

from __future__ import annotations

from typing import Any


def evaluate(
    trained: str,
    data: str,
    split: str | None = None,
    out: str | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    **options: Any,
) -> None:
    """Judge a model on labelled scans that it did not learn from: table, CSV, pictures of the worst, a report.

    Args:
        trained: the folder that aps train left, or a bundle's folder, zip or name. A bundle runs code: use those you
            trust.
        data: a folder with datalist.json, images/ and labels/, or nnU-Net's and the Decathlon's folders; or a datalist.
        split: test, validation or training; test by default if there are such scans, else validation.
        out: folder of the results; by default evaluation/DATA in the training's folder, or eval/DATA in the bundle's.
            A bundle that was installed with this package writes into evaluation/DATA here. Results of other data that
            have this name stay: then it is DATA_2.
        checkpoint: model.pt of another training, with its model.json beside it.
        device: cpu, cuda or cuda:1; a GPU, if there is one, by default.
        options: other keys of the bundle's evaluation, such as --overlap 0.25.
    """
    from aps_components.report.evaluate import evaluate as judge

    chosen = {} if device is None else {"device": device}
    report = judge(trained, data, split=split, out=out, checkpoint=checkpoint, options={**options, **chosen})
    print(f"report: {report}")
