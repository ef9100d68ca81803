"""DeepEdit as MONAI has it, trained on the patches of a bundle for some minutes, and asked as our models are.

The network, its losses, its clicks and all their figures are those of MONAI Label's radiology app
(https://github.com/Project-MONAI/MONAILabel, sample-apps/radiology/lib), the transforms are ``monai.apps.deepedit``'s:

    Diaz-Pinto et al. 2023, DeepEdit, arXiv:2305.10655; Diaz-Pinto et al. 2022, MONAI Label, arXiv:2203.12362.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.apps.deepedit.interaction import Interaction
from monai.apps.deepedit.transforms import (
    AddGuidanceSignalDeepEditd,
    AddInitialSeedPointMissingLabelsd,
    AddRandomGuidanceDeepEditd,
    FindAllValidSlicesMissingLabelsd,
    FindDiscrepancyRegionsDeepEditd,
)
from monai.data import list_data_collate
from monai.engines import SupervisedTrainer
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    RandFlipd,
    RandRotate90d,
    RandShiftIntensityd,
    Resized,
    SelectItemsd,
    ToNumpyd,
    ToTensord,
    Transform,
)
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from aps_components.data import SeededCacheDataset
from aps_components.data.sampling import SampleKey, TwoStreamBatchSampler
from aps_components.files import replacing
from aps_components.interactive import Answer, ScanGrid
from aps_components.interactive.predictor import drop_small_pieces
from aps_components.models.precision import Precision, autocast
from aps_components.options import Pieces, differences

View = Literal["patch", "whole"]
STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 1))
FILTERS = 32
CLICKED = 0.4  # of the iterations, with clicks; the others train the answer without any
EPOCH = 10  # iterations
SAVE_SECONDS = 120
BACKGROUND = "background"  # by this name alone DeepEdit's transforms know it

logging.getLogger("monai.apps.deepedit").setLevel(logging.WARNING)  # a line for every click


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How DeepEdit is trained.

    Args:
        view: ``patch``: patches, and a sliding window; ``whole``: whole scans, resized to the size of a patch.
        learning_rate: at first.
        weight_decay: of AdamW.
        decayed: the learning rate falls to zero as the minutes pass.
    """

    view: View
    learning_rate: float
    weight_decay: float = 0.0
    decayed: bool = False


class DeepEdit(nn.Module):
    """MONAI Label's DynUNet, which is given the image and a channel of clicks for each class.

    Args:
        num_classes: C, background included.
        roi_size: what it sees at once. An axis is halved as often as MONAI Label halves it, and as it can be.
        filters: at full resolution, twice as many after every stride, and ten times as many at most.
        precision: of its convolutions.
    """

    def __init__(
        self, *, num_classes: int, roi_size: Sequence[int], filters: int = FILTERS, precision: Precision = "auto"
    ) -> None:
        super().__init__()
        strides = strides_for(roi_size)
        self.precision = precision
        self.network = DynUNet(
            spatial_dims=3,
            in_channels=1 + num_classes,
            out_channels=num_classes,
            kernel_size=[3] * len(strides),
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=[filters * min(2**level, 10) for level in range(len(strides))],
            norm_name="instance",
            deep_supervision=False,
            res_block=True,
        ).to(memory_format=torch.channels_last_3d)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, 1 + C, D, H, W] to logits [B, C, D, H, W], float32."""
        with autocast(inputs.device, self.precision):
            return self.network(inputs.contiguous(memory_format=torch.channels_last_3d)).float()


def strides_for(roi_size: Sequence[int]) -> list[tuple[int, ...]]:
    """MONAI Label's strides, but for those that would not divide an axis or leave less than two voxels of it."""
    size = list(roi_size)
    strides: list[tuple[int, ...]] = [STRIDES[0]]
    for wanted in STRIDES[1:]:
        step = tuple(2 if s == 2 and n % 2 == 0 and n >= 4 else 1 for s, n in zip(wanted, size, strict=True))
        if max(step) > 1:
            strides.append(step)
            size = [n // s for n, s in zip(size, step, strict=True)]
    if len(strides) < 3:
        raise ValueError(f"roi_size {list(roi_size)} can be halved {len(strides) - 1} times; give multiples of 4")
    return strides


def whole_scans(deterministic: Sequence[Transform], roi_size: Sequence[int]) -> Compose:
    """MONAI Label's augmentation of whole scans that are resized to one size.

    Args:
        deterministic: from files to the network's grid.
        roi_size: that size.
    """
    keys = ("image", "label")
    flips = [RandFlipd(keys, spatial_axis=[axis], prob=0.1) for axis in range(3)]
    turn = [RandRotate90d(keys, prob=0.1, max_k=3)] if roi_size[0] == roi_size[1] else []
    resized = Resized(keys, spatial_size=roi_size, mode=("area", "nearest"))
    return Compose([*deterministic, resized, *flips, *turn, RandShiftIntensityd("image", offsets=0.1, prob=0.5)])


def label_names(labels: Mapping[int, str]) -> dict[str, int]:
    """Class value by name; the background is called so."""
    return {BACKGROUND if value == 0 else name: value for value, name in sorted(labels.items())}


class ClickedPatches(Dataset):
    """Patches with a first click for each class, of which an iteration without clicks keeps none.

    Args:
        patches: items with ``image`` [1, D, H, W] and ``label`` [1, D, H, W].
        names: class value by name.
    """

    def __init__(self, patches: SeededCacheDataset, names: Mapping[str, int]) -> None:
        self.patches, self.names = patches, dict(names)
        self.clicks = Compose(
            [
                FindAllValidSlicesMissingLabelsd(keys="label", sids="sids"),
                AddInitialSeedPointMissingLabelsd(keys="label", guidance="guidance", sids="sids"),
                AddGuidanceSignalDeepEditd(keys="image", guidance="guidance"),
                ToTensord(keys=("image", "label")),
                SelectItemsd(keys=("image", "label", "guidance", "label_names")),
            ]
        )

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        sample = self.patches[key]
        volumes = {name: np.asarray(sample[name], dtype=np.float32) for name in ("image", "label")}
        return self.clicks.set_random_state(seed=key.seed)({**volumes, "label_names": dict(self.names)})


def interaction(names: Mapping[str, int]) -> Interaction:
    """What an iteration begins with: clicks into the errors of the answer so far, or none."""
    return Interaction(
        deepgrow_probability=CLICKED,
        transforms=[
            Activationsd(keys="pred", softmax=True),
            AsDiscreted(keys="pred", argmax=True),
            ToNumpyd(keys=("image", "label", "pred")),
            FindDiscrepancyRegionsDeepEditd(keys="label", pred="pred", discrepancy="discrepancy"),
            AddRandomGuidanceDeepEditd(
                keys="NA", guidance="guidance", discrepancy="discrepancy", probability="probability"
            ),
            AddGuidanceSignalDeepEditd(keys="image", guidance="guidance"),
            ToTensord(keys=("image", "label")),
            SelectItemsd(keys=("image", "label")),
        ],
        train=True,
        label_names=dict(names),
        click_probability_key="probability",
    )


class Training:
    """Trains for some minutes, and goes on where it was stopped.

    Args:
        network: to train, on its device.
        patches: of the labelled scans.
        names: class value by name.
        recipe: how.
        minutes: of iterations, without reading the scans.
        seed: of all that is random.
        file: of the checkpoint, which its folder may hold from before.
        settings: what the training depends on, of JSON's types.

    Raises:
        ValueError: the checkpoint is of other settings.
    """

    def __init__(
        self,
        network: DeepEdit,
        patches: SeededCacheDataset,
        names: Mapping[str, int],
        *,
        recipe: Recipe,
        minutes: float,
        seed: int,
        file: Path,
        settings: Mapping[str, Any],
    ) -> None:
        self.network, self.recipe, self.file, self.settings = network, recipe, file, dict(settings)
        self.budget, self.seconds, self.epoch, self.iterations = 60 * minutes, 0.0, 0, 0
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        # One patch a batch, as MONAI Label trains: Interaction takes the clicks off the first patch of a batch alone.
        self.sampler = TwoStreamBatchSampler(
            patches, labeled_batch=1, unlabeled_batch=0, epoch_length=EPOCH, seed=seed, repeat_cases=True
        )
        clicked = ClickedPatches(patches, names)
        self.loader = DataLoader(clicked, batch_sampler=self.sampler, collate_fn=list_data_collate)
        self.interaction, self.seed = interaction(names), seed
        self._resume()

    def run(self) -> None:
        """Train until the minutes are spent."""
        while self.seconds < self.budget:
            self.sampler.set_epoch(self.epoch)
            set_determinism(self.seed + self.epoch)
            self.interaction.transforms.set_random_state(self.seed + self.epoch)
            self._epoch()
            self.epoch += 1
            if self.seconds >= self.budget or time.monotonic() - self._saved > SAVE_SECONDS:
                self._save()

    def _epoch(self) -> None:
        device = next(self.network.parameters()).device
        trainer = SupervisedTrainer(
            device=device,
            max_epochs=1,
            train_data_loader=self.loader,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
            iteration_update=self.interaction,
            decollate=False,
        )
        self._started = time.monotonic()
        trainer.add_event_handler("ITERATION_COMPLETED", self._after_iteration)
        trainer.run()

    def _after_iteration(self, trainer: SupervisedTrainer) -> None:
        now = time.monotonic()
        self.seconds += now - self._started
        self._started, self.iterations = now, self.iterations + 1
        if self.seconds >= self.budget:
            trainer.terminate()
        if self.recipe.decayed:
            left = max(0.0, 1 - self.seconds / self.budget)
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate * left**0.9

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in ("seconds", "epoch", "iterations", "settings")},
        }
        with replacing(self.file) as unfinished:
            torch.save(state, unfinished)
        self._saved = time.monotonic()
        print(f"{self.seconds / 60:.1f} of {self.budget / 60:g} minutes, {self.iterations} iterations", flush=True)

    def _resume(self) -> None:
        self._saved = time.monotonic()
        if not self.file.is_file():
            return
        state = torch.load(self.file, map_location="cpu", weights_only=True)
        if different := differences(state["settings"], self.settings):
            raise ValueError(f"{self.file} is of other settings ({different}): give the same, or another --out")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seconds, self.epoch, self.iterations = (state[name] for name in ("seconds", "epoch", "iterations"))


class DeepEditPredictor:
    """A session with one scan, by the two methods that the simulated annotator needs.

    As with our own predictor a voxel that was clicked has the class that was said, and of each class the largest piece
    alone stays, if the bundle keeps it alone, and those that were clicked.

    Args:
        network: trained.
        preprocessing: of ``image`` alone, from its file to the network's grid.
        names: class value by name.
        roi_size: of a window.
        view: as in the training.
        overlap: of neighbouring windows.
        largest_component: which pieces stay, see `label_map.kept_pieces`.
    """

    def __init__(
        self,
        network: DeepEdit,
        preprocessing: Compose,
        names: Mapping[str, int],
        *,
        roi_size: Sequence[int],
        view: View,
        overlap: float,
        largest_component: Pieces,
    ) -> None:
        self.network, self.preprocessing, self.names = network.eval(), preprocessing, names
        self.roi_size, self.view, self.overlap, self.pieces = roi_size, view, overlap, largest_component
        self.add_signal = AddGuidanceSignalDeepEditd(keys="image", guidance="guidance")

    def set_image(self, scan: str | Sequence[str]) -> None:
        """See a scan."""
        image = self.preprocessing({"image": scan})["image"]
        self.image = image.as_tensor()
        self.grid = ScanGrid(
            image.meta["spatial_shape"],
            np.asarray(image.meta["original_affine"], dtype=np.float64),
            network_shape=image.shape[1:],
            network_affine=np.asarray(image.affine, dtype=np.float64),
        )
        self.clicks: dict[tuple[int, int, int], int] = {}

    def predict(self, points: Sequence[tuple[tuple[int, int, int], int]] = ()) -> Answer:
        """The answer to these clicks and all those before them, on the scan's own grid."""
        self.clicks |= dict(points)
        label_map = self.grid.label_map(self.probabilities(), self.grid.whole)
        for voxel, label in self.clicks.items():
            label_map[voxel] = label
        drop_small_pieces(label_map, self.pieces, classes=len(self.names), named=self.clicks)
        return Answer(label_map, self.grid.affine)

    @torch.inference_mode()
    def probabilities(self) -> Tensor:
        """[C, D, H, W] on the network's grid."""
        device = next(self.network.parameters()).device
        shape = self.image.shape[1:]
        if self.view == "patch":
            inputs = self._with_clicks(self.image, self.grid.network_shape).to(device)
            logits = sliding_window_inference(
                inputs, self.roi_size, 1, self.network, overlap=self.overlap, mode="gaussian"
            )
            return torch.as_tensor(logits)[0].softmax(dim=0)
        small = F.interpolate(self.image[None], size=tuple(self.roi_size), mode="area")[0]
        probabilities = self.network(self._with_clicks(small, self.roi_size).to(device)).softmax(dim=1)
        return F.interpolate(probabilities, size=shape, mode="trilinear")[0]

    def _with_clicks(self, image: Tensor, size: Sequence[int]) -> Tensor:
        """[1, 1 + C, D, H, W]: the image, and the clicks of each class as DeepEdit draws them."""
        factor = np.array(size) / np.array(self.grid.network_shape)
        guidance: dict[str, list[list[int]]] = {name: [] for name in self.names}
        by_value = list(self.names)  # in the order of the values, 0, 1, ...
        for voxel, label in self.clicks.items():
            place = (np.array(self.grid.network_voxel(voxel)) + 0.5) * factor
            guidance[by_value[label]].append([0, *place.astype(int).tolist()])
        drawn = self.add_signal({"image": image.numpy(), "guidance": guidance})
        return torch.from_numpy(np.asarray(drawn["image"], dtype=np.float32))[None]
