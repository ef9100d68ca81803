"""The network that moves borders learns from clicks to end at an edge of the image."""

import json

import numpy as np
import pytest
import torch

from aps_components.prompts import deepest_error, learned_border, moved_border
from aps_components.prompts.border_maps import border_maps
from aps_components.studies.borders import Asked, Sample, _target, _turned, border_loss, main, train

SIZE = (36, 38, 40)


def scene(rng):
    """A noisy ball, its truth, and an answer that lacks some voxels on one side."""
    centre, radius = np.array(SIZE) / 2 + rng.uniform(-2, 2, 3), rng.uniform(8, 11)
    truth = ((np.indices(SIZE) - centre[:, None, None, None]) ** 2).sum(axis=0) <= radius**2
    image = (truth + 0.1 * rng.standard_normal(SIZE)).astype(np.float32)[None]
    answer = truth & np.roll(truth, int(rng.integers(2, 5)) * int(rng.choice([-1, 1])), axis=int(rng.integers(3)))
    foreground = np.where(answer, 0.9, 0.1).astype(np.float32)
    return image, truth.astype(int), answer.astype(int), np.stack([1 - foreground, foreground])


def gain(border, answer, truth):
    mask = answer == 1
    before = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    mask[border.box] |= border.inside
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) - before


@pytest.mark.slow
def test_a_short_training_goes_on_to_the_edge_where_geometry_stops():
    rng, samples = np.random.default_rng(0), []
    for _ in range(40):
        image, truth, answer, probabilities = scene(rng)
        click = deepest_error(answer, truth)
        seen = border_maps(image, probabilities, answer, click)
        samples.append(Sample(seen.maps[0].astype(np.float16), _target(truth, click, seen), seen.away))
    network = train([(samples, [])], Asked(iterations=150, batch=3))
    gains = []
    for _ in range(10):
        image, truth, answer, probabilities = scene(rng)
        click = deepest_error(answer, truth)
        by_image = learned_border(image, probabilities, answer, click, network=network)
        gains.append([gain(border, answer, truth == 1) for border in (by_image, moved_border(answer, click))])
    by_image, by_geometry = np.mean(gains, axis=0)
    assert by_image > 1.5 * by_geometry > 0


def test_only_axes_of_one_length_change_places():
    rng = np.random.default_rng(0)
    found = {tuple(_turned((5, 25, 25), rng)) for _ in range(40)}
    assert found == {(0, 1, 2), (0, 2, 1)}
    assert len({tuple(_turned((25, 25, 25), rng)) for _ in range(80)}) == 6


def test_the_loss_counts_nothing_beyond_the_volume_or_far_from_the_click():
    maps, target = torch.zeros(1, 9, 3, 3, 3), torch.zeros(1, 2, 3, 3, 3)
    maps[:, 3] = 1
    target[:, 1, :2] = 1
    away = torch.zeros(1, 1, 3, 3, 3)
    away[..., 2] = 11
    logits = torch.full((1, 1, 3, 3, 3), -4.0)
    expected = border_loss(logits, maps, target, away)
    logits[:, :, 2] = 9.0
    logits[..., 2] = 9.0
    torch.testing.assert_close(border_loss(logits, maps, target, away), expected)
    logits[0, 0, 0, 0, 0] = 9.0
    assert border_loss(logits, maps, target, away) > expected


def test_a_run_without_folds_is_refused(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.json").write_text(json.dumps({}))
    monkeypatch.setattr("sys.argv", ["borders", str(tmp_path / "weights.pt"), str(tmp_path / "run")])
    with pytest.raises(ValueError, match=r"run has no work/fold_1"):
        main()
    assert not (tmp_path / "weights.pt").exists()
