"""What Model B learns from a simulated user: it does as it is told, where it is told, and looks at the image.

On made-up scans: smooth blobs under noise. Model A's part is played by points in the true classes and by an answer with
smooth errors, so that Model B alone is trained.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from aps_components.models import TrainingOutput, as_tensors, together
from aps_components.models.interaction import InteractiveRounds, own_prompts
from aps_components.networks.sam3d import ImageEmbedding, build_sam3d
from aps_components.prompts import AlteredTargets, PointPrompts, UserPrompts, deepest_error, with_moved_borders
from aps_components.prompts.simulated import inner_point
from aps_components.training import TrainingPatches, build_objective

SIZE, ITERATIONS, POINTS, SCANS = (32, 32, 16), 120, 10, 8
NEAR, FAR, BAND = 4, 12, 4  # voxels


def scans(count, *, seed):
    """Images [B, 1, D, H, W] and labels of the same shape."""
    rng = np.random.default_rng(seed)
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=SIZE), 4) for _ in range(count)])
    label = fields > 0.5 * fields.std(axis=(1, 2, 3), keepdims=True)
    image = label + 0.7 * rng.normal(size=label.shape)
    return torch.from_numpy(image[:, None]).float(), torch.from_numpy(label[:, None].astype(np.int64))


def points_of(label, rng):
    """Points of both classes inside them, as Model A's own."""
    clicks = [
        [inner_point(patch[0] == side, rng, label=side) for side in (0, 1) for _ in range(POINTS)]
        for patch in label.numpy()
    ]
    labels = torch.tensor([[click.label for click in each] for each in clicks])
    coords = torch.tensor([[click.voxel for click in each] for each in clicks], dtype=torch.float32)
    return PointPrompts(coords, labels, torch.full(labels.shape, 0.9))


def trained(user):
    """Model B after some iterations, with a user's settings or without a user."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model_b = build_sam3d(num_classes=2, variant="tiny", reference_size=SIZE).train()
    objective = build_objective(user=user, train_a=False)
    optimizer = torch.optim.AdamW(model_b.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=ITERATIONS, power=0.9)
    for iteration in range(ITERATIONS):
        image, label = scans(2, seed=1000 + iteration)
        points, errors = points_of(label, rng), F.interpolate(torch.randn(2, 2, 8, 8, 4), size=SIZE, mode="trilinear")
        logits_a = F.one_hot(label[:, 0], 2).movedim(-1, 1) + 2 * errors

        def forward(image, *, label, user, points=points, logits_a=logits_a, **_):
            embedding, of_a = model_b.encode(image), (logits_a, logits_a[:, :1])
            if user is None:
                output = model_b.decode(embedding, image_size=SIZE, prompts=own_prompts(points))
                return TrainingOutput(*of_a, *output, points, None)
            settings = {"label": label, "weaker_logits": logits_a, "points": points, "rng": rng}
            rounds = InteractiveRounds(model_b, user, **settings).run(embedding, image_size=SIZE)
            automatic = rounds[0].logits, rounds[0].iou_predictions
            return TrainingOutput(*of_a, *automatic, points, None, rounds=tuple(rounds))

        patches = TrainingPatches(image, label, torch.ones_like(label, dtype=torch.bool), all_labeled=True)
        optimizer.zero_grad()
        objective(forward, patches, iteration=iteration)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model_b.parameters(), 12.0)
        optimizer.step()
        scheduler.step()
    return model_b.eval()


class Examined:
    """A trained Model B on scans that it never saw, prompted with points in the true classes."""

    @torch.no_grad()
    def __init__(self, user):
        with torch.enable_grad():
            self.model_b = trained(user)
        image, label = scans(SCANS, seed=1)
        self.truth = label[:, 0]
        self.embedding = self.model_b.encode(image)
        self.own = own_prompts(points_of(label, np.random.default_rng(3)))
        self.logits = self.decode(self.own)
        self.answer = self.logits.argmax(dim=1)

    def decode(self, prompts, *, embedding=None, mask_inputs=None):
        embedding = embedding or self.embedding
        return self.model_b.decode(embedding, image_size=SIZE, prompts=prompts, mask_inputs=mask_inputs).logits

    def dice(self, answer):
        return 2 * ((answer == 1) & (self.truth == 1)).sum() / ((answer == 1).sum() + (self.truth == 1).sum())

    def clicked(self):
        """Of errors near a click, the share that it turns; and of voxels far away, the share that change.

        Clicks go into the largest difference to a target that no image tells of.
        """
        rng, given, clicks = np.random.default_rng(0), [], []
        altered = AlteredTargets(other_answer=0, shifted_border=0, cut=0)
        for truth, answer in zip(self.truth.numpy(), self.answer.numpy(), strict=True):
            target, _ = altered.draw(truth, rng, num_classes=2)
            clicks.append(deepest_error(answer, target))
            given.append(UserPrompts([clicks[-1]], [], []))
        own = self.own.own_coords, self.own.own_labels, self.own.own_weights
        prompts = together(as_tensors(given, device="cpu"), *own)
        probabilities = self.logits.softmax(dim=1)
        moved = [with_moved_borders(each, [click]) for each, click in zip(probabilities, clicks, strict=True)]
        after = self.decode(prompts, mask_inputs=torch.stack(moved).log()).argmax(dim=1).numpy()
        turned, elsewhere = [], []
        for click, before, now in zip(clicks, self.answer.numpy(), after, strict=True):
            distance = ndimage.distance_transform_edt(_all_but(click.voxel))
            wrong = (distance <= NEAR) & (before != click.label)
            turned.append((now[wrong] == click.label).mean())
            elsewhere.append((now != before)[distance > FAR].mean())
        return np.mean(turned), np.mean(elsewhere)

    def told(self):
        """Of what lies near own points that tell of an altered target, the share that follows them."""
        rng, altered, followed = np.random.default_rng(0), AlteredTargets(other_answer=0, shifted_border=0, cut=0), []
        coords, labels = self.own.own_coords.clone(), self.own.own_labels.clone()
        targets = [altered.draw(truth, rng, num_classes=2)[0] for truth in self.truth.numpy()]
        places = [np.argwhere(each != truth) for each, truth in zip(targets, self.truth.numpy(), strict=True)]
        for row, (target, there) in enumerate(zip(targets, places, strict=True)):
            chosen = there[rng.integers(len(there), size=3)]
            coords[row, :3], labels[row, :3] = torch.from_numpy(chosen), torch.from_numpy(target[tuple(chosen.T)])
        after = self.decode(self.own._replace(own_coords=coords, own_labels=labels)).argmax(dim=1).numpy()
        for row, (target, there) in enumerate(zip(targets, places, strict=True)):
            followed.append((after[row] == target)[tuple(there.T)].mean())
        return np.mean(followed)

    def flipped(self):
        """Share of the voxels near the true border that change when every point says the other class."""
        flipped = self.own._replace(own_labels=1 - self.own.own_labels)
        band = [
            ndimage.distance_transform_edt(each) + ndimage.distance_transform_edt(1 - each) <= BAND
            for each in self.truth.numpy()
        ]
        changed = self.decode(flipped).argmax(dim=1) != self.answer
        return changed[torch.from_numpy(np.stack(band))].float().mean()

    def without_image(self):
        """The answer to the same points on an image embedding of zeros."""
        nothing = ImageEmbedding(*(torch.zeros_like(part) for part in self.embedding))
        return self.decode(self.own, embedding=nothing).argmax(dim=1)


def _all_but(voxel):
    places = np.ones(SIZE)
    places[voxel] = 0
    return places


@pytest.mark.slow
@torch.no_grad()
def test_a_model_that_is_trained_with_a_user_obeys():
    user = {"rounds": 2, "own": 1.0, "simulated": 0.2, "none": 0.2, "told": 0.5}
    taught, untaught = Examined(user), Examined(None)
    assert taught.dice(taught.answer) > 0.8
    assert taught.dice(taught.answer) - taught.dice(taught.without_image()) > 0.05
    turned, elsewhere = taught.clicked()
    assert turned > 0.5
    assert elsewhere < 0.1
    assert taught.told() > untaught.told() + 0.1
    assert taught.flipped() > 0.2
    assert untaught.flipped() < 0.2
