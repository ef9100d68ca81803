from pathlib import Path

import pytest
import torch
from pipelines import training_transforms
from students import C, D, H, W
from torch.optim.lr_scheduler import PolynomialLR

from aps_components.data import SeededCacheDataset, load_datalist, two_stream_loader
from aps_components.models import build_auto_prompt_seg
from aps_components.training import (
    MeanTeacher,
    SemiSupervisedTrainer,
    TrainingCheckpoint,
    TrainingPatches,
    build_objective,
)

ROI = (32, 32, 32)


def make_dataset(folder: Path) -> SeededCacheDataset:
    """3 labelled and 4 unlabelled phantoms, in memory."""
    transforms = training_transforms(roi_size=ROI, intensity="zscore")
    items = load_datalist(folder, labeled_count=3).training_items
    return SeededCacheDataset(items, transforms, progress=False, num_workers=1)


@pytest.fixture(scope="session")
def dataset(phantoms) -> SeededCacheDataset:
    return make_dataset(phantoms)


@pytest.fixture
def dataset_of_its_own(phantoms) -> SeededCacheDataset:
    """To spoil."""
    return make_dataset(phantoms)


@pytest.fixture
def make_trainer(dataset):
    """A trainer of a tiny network: one iteration of labelled patches, then copy-paste."""

    def make(
        *,
        epochs=2,
        epoch_length=2,
        seed=0,
        dataset=dataset,
        ckpt_dir=None,
        settings=None,
        evaluator=None,
        handlers=(),
        batch=(2, 2),
        learning_rate=1e-3,
        objective=None,
        device="cpu",
        network=None,
        **options,
    ):
        torch.manual_seed(seed)
        tiny = {"filters": 2, "sam_variant": "tiny", "prompts": {"points_per_class": 4, "min_probability": 0.5}}
        network = build_auto_prompt_seg(num_classes=2, roi_size=ROI, **tiny | (network or {})).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
        handlers = list(handlers)
        if ckpt_dir is not None:
            handlers.append(TrainingCheckpoint(ckpt_dir, settings=settings or {}, evaluator=evaluator))
        return SemiSupervisedTrainer(
            device=device,
            max_epochs=epochs,
            train_data_loader=two_stream_loader(
                dataset, labeled_batch=batch[0], unlabeled_batch=batch[1], epoch_length=epoch_length, seed=seed
            ),
            network=network,
            optimizer=optimizer,
            lr_scheduler=PolynomialLR(optimizer, total_iters=epochs * epoch_length, power=0.9),
            objective=build_objective(**{"warmup_iterations": 1} | (objective or {})),
            teacher=MeanTeacher(network, decay=0.9),
            seed=seed,
            train_handlers=handlers,
            **{"precision": "fp32"} | options,
        )

    return make


@pytest.fixture
def patches():
    """Four, each voxel of which a person or the teacher labelled, at random."""
    generator = torch.Generator().manual_seed(1)
    return TrainingPatches(
        image=torch.zeros(4, 1, D, H, W),
        label=torch.randint(C, (4, 1, D, H, W), generator=generator),
        labeled=torch.rand(4, 1, D, H, W, generator=generator) > 0.3,
        all_labeled=False,
    )


@pytest.fixture
def labelled_patches(patches):
    return patches._replace(labeled=torch.ones_like(patches.labeled), all_labeled=True)
