"""Batches, a teacher and a student whose answers are known, for the tests of the objective."""

import pytest
import torch

from aps_components.models import Round, TrainingOutput

C, D, H, W = 3, 5, 7, 11  # sizes that cannot be confused
PERSON, TEACHER = 1, 2  # the class that each of the two gives to every voxel


def make_batch(labeled=2, unlabeled=2):
    """Labelled patch i is filled with i + 1, unlabelled patch j with -(j + 1); a person labelled everything 1."""

    def images(numbers):
        return torch.stack([torch.full((1, D, H, W), float(number)) for number in numbers])

    batch = {
        "labeled": {
            "image": images(range(1, labeled + 1)),
            "label": torch.full((labeled, 1, D, H, W), PERSON, dtype=torch.uint8),
        }
    }
    if unlabeled:
        batch["unlabeled"] = {"image": images(range(-1, -unlabeled - 1, -1))}
    return batch


def teacher(image):
    """Sees class 2 everywhere."""
    logits = torch.zeros(image.shape[0], C, *image.shape[2:])
    logits[:, TEACHER] = 1.0
    return logits


def no_teacher(_image):
    pytest.fail("the teacher was asked")


class Forward:
    """Stands for the student; its outputs are leaves, so that each one's gradient can be read."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)

        def leaf(*size, positive=False):
            values = torch.randn(4, *size, generator=generator)
            return (values.sigmoid() if positive else values).requires_grad_()

        self.logits_a, self.logits_b = leaf(C, D, H, W), leaf(C, D, H, W)
        self.variance, self.iou_predictions = leaf(1, D, H, W, positive=True), leaf(C, positive=True)

    def __call__(self, image, *, with_a, with_b, label, user):
        assert image.shape == (4, 1, D, H, W)
        self.asked = {"with_a": with_a, "with_b": with_b, "label": label, "user": user}
        output = self.output(self.rounds(label) if user else ())
        return output if with_b else output._replace(logits_b=None, iou_predictions=None)

    def output(self, rounds):
        of_models = self.logits_a, self.variance, self.logits_b, self.iou_predictions
        return TrainingOutput(*of_models, None, None, rounds=tuple(rounds))

    def rounds(self, label):
        """The automatic answer, and two corrected ones of patches 3 and 1.

        Classes are exchanged in patch 3; the target of patch 1 is altered before the corrections.
        """
        generator = torch.Generator().manual_seed(2)
        target = label.clone()
        target[3] = (target[3] + 1) % C
        altered = torch.stack([target[3], (label[1] + 2) % C])
        exchanged, nowhere = torch.tensor([False, False, False, True]), torch.zeros(4, 1, D, H, W)
        automatic = torch.arange(4), self.logits_b, self.iou_predictions, target, exchanged
        rounds = [Round(*automatic, nowhere, nowhere > 0)]
        for _ in range(2):
            logits = torch.randn(2, C, D, H, W, generator=generator).requires_grad_()
            nearness = (torch.rand(2, 1, D, H, W, generator=generator) - 0.5).clamp_min(0)
            within = (nearness > 0) | (torch.rand(2, 1, D, H, W, generator=generator) > 0.7)
            rows = torch.tensor([3, 1])
            iou_predictions, changed = self.iou_predictions[rows], torch.tensor([True, True])
            rounds.append(Round(rows, logits, iou_predictions, altered, changed, nearness, within))
        return tuple(rounds)
