"""A bundle's own inference, scan by scan: MONAI builds and runs its inference.json, loaded once for all scans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from aps_components.bundle import bundle_name, require_weights
from aps_components.configuration import BundleWorkflow
from aps_components.data import DataError
from aps_components.data.geometry import Geometry
from aps_components.data.inference import PREPARED
from aps_components.data.room import refuse_large_segmentation, refuse_large_volume, segmentation_room
from aps_components.errors import plain_errors
from aps_components.evaluation.doubt.expected import Expectation, Expected
from aps_components.evaluation.doubt.second_view import second_view
from aps_components.files import ensure_writable, expanded, real
from aps_components.interactive import LoadedModel, Predictor
from aps_components.machine import chosen_device
from aps_components.memory import return_freed_memory
from aps_components.models import CheckpointError, TwoModels, read_settings, settings_file
from aps_components.options import pieces
from aps_components.plain_json import read_object
from aps_components.segmentation.quiet import quiet
from aps_components.terminal import brief

NEEDED = (
    "labels",
    "spacing",
    "modalities",
    "in_channels",
    "checkpoint",
    "output_dir",
    "save_maps",
    "dataset",
    "overlap",
    "inferer",
    "run",
)
# What decides which scans go in and where files go is said by INPUT and OUTPUT.
OWN = (
    *("image", "image_key", "dataset_dir", "datalist", "dataset", "dataloader", "handlers", "run", "inference"),
    *("output_dir", "output_ext", "output_postfix", "output_dtype", "separate_folder", "bundle_root", "load_pretrain"),
)
# Of a bundle's configs, those that are not to be laid over inference.json.
NO_OVERRIDES = ("train.", "inference.", "evaluate.", "pretrain.", "multi_gpu_train.", "datalist.", "meta")


class BundleInference:
    """The workflow of a bundle's ``inference.json``, read at once and built by `load`.

    Args:
        root: folder of the bundle.
        configs: override files laid over ``inference.json``: names in its ``configs`` folder, or paths.
        settings: top-level keys of ``inference.json``, or keys inside them after a "#", to other values.

    Raises:
        FileNotFoundError: there is no such override file; which ones the bundle has.
        ValueError: the bundle is none of this project's, or has no such setting.
    """

    def __init__(self, root: str | Path, *, configs: Sequence[str] = (), settings: Mapping[str, Any] | None = None):
        self.root = real(root)
        base = self.root / "configs" / "inference.json"
        self.overrides = [_override_file(self.root, name) for name in configs]
        with quiet():
            self._opened = BundleWorkflow(self.root, base, *self.overrides, kind="infer")
        self.workflow, self.parser = self._opened.workflow, self._opened.parser
        if missing := [key for key in NEEDED if key not in self.parser]:
            raise ValueError(f"{base}: no key {missing[0]!r}, as every bundle of AutoPromptSeg has; give one of those")
        self._opened.change({"bundle_root": str(self.root)})
        with quiet():
            self._opened.lay_over(settings or {}, own=OWN)
        self.broken_off = False
        self.expected: Expected | None = None

    @property
    def labels(self) -> dict[int, str]:
        """Class value to name, background included."""
        return {int(value): str(name) for value, name in self._value("labels").items()}

    def other_classes(self, weights: Path) -> list[str]:
        """A note, if the weights find other classes than the bundle is made for."""
        file = self.root / "configs" / "train.json"
        own = read_object(file).get("labels") if file.is_file() else None
        if own is None or {int(value): name for value, name in own.items()} == self.labels:
            return []
        found, made_for = (", ".join(list(labels.values())[1:]) for labels in (self.labels, own))
        return [f"{weights} finds {brief(found)}; the bundle {bundle_name(self.root)!r} is made for {brief(made_for)}"]

    @property
    def modalities(self) -> list[str] | None:
        """The files of a case, in channel order; None where a case is a file."""
        return self._value("modalities")

    @property
    def checkpoint(self) -> Path:
        """The file of the weights."""
        return Path(self._value("checkpoint"))

    def require_checkpoint(self) -> Path:
        """The file of the weights, which must be there.

        Raises:
            FileNotFoundError: the bundle has none; how to get or train them.
            CheckpointError: none lies where the settings say.
        """
        checkpoint = self.checkpoint
        if real(checkpoint) == self.root / "models" / "model.pt":
            return require_weights(self.root)
        if not checkpoint.is_file():
            raise CheckpointError(f"no checkpoint at {checkpoint}: give the file of a training, OUT/models/model.pt")
        return checkpoint

    def load(self, output_dir: str | Path, *, device: str | None = None, progress: bool = False) -> torch.device:
        """Build everything and load the weights.

        Args:
            output_dir: receives the files of every scan.
            device: "cpu", "cuda", "cuda:1"; the bundle's own choice by default.
            progress: show a bar of a scan's windows.

        Returns:
            Where it runs.

        Raises:
            ValueError: a device that is not there, or settings or weights that do not fit, CheckpointError among them.
        """
        changes: dict[str, Any] = {
            "output_dir": str(ensure_writable(output_dir)),
            "dataset#data": [None],
            "handlers": [],
        }
        changes |= {"inferer#progress": True} if progress else {}
        changes |= {} if device is None else {"device": str(chosen_device("device", device))}
        # The evaluator leaves it to `write`.
        self.parser.update(pairs={"evaluator#postprocessing": "$(@postprocessing, None)[1]"})
        self._opened.change(changes)
        self._build()
        settings = read_settings(self.checkpoint)
        if self._value("predictor") == settings.get("inference_predictor", "average"):  # of others nothing is known
            self.expected = Expected.of(settings, where=str(settings_file(self.checkpoint)))
        return torch.device(self._value("device"))

    def segment(self, files: Sequence[str]) -> None:
        """Run the bundle on one scan; its files go to the output folder, named after the scan.

        Args:
            files: of the scan, in channel order.

        Raises:
            DataError: the scan cannot be used, or not within the memory there is.
        """
        self.write(self.answer(self.prepare(files)))

    def require_room(self, files: Sequence[str], *, scans: int = 1) -> None:
        """Refuse a scan, or several of its size at once, that the memory does not hold; errors as of `segment`."""
        refuse_large_segmentation(files, **self._room(), times=scans)

    def require_room_of(self, geometry: Geometry, *, name: str, scans: int = 1) -> None:
        """The same of a scan that is no NIfTI file yet."""
        refuse_large_volume(geometry, name=name, **self._room(), times=scans)

    def _room(self) -> dict[str, Any]:
        """What a scan's memory depends on."""
        inferer = self._built("inferer")
        return segmentation_room(
            spacing=self._value("spacing"),
            classes=len(self.labels),
            roi_size=inferer.roi_size,
            sw_batch_size=inferer.sw_batch_size,
            device=self._value("device"),
        )

    def prepare(self, files: Sequence[str]) -> Any:
        """Read and preprocess a scan; in any thread. Arguments and errors are those of `segment`."""
        self.require_room(files)
        with quiet(), _said_plainly():
            return self._built("dataset").sample({"image": list(files) if len(files) > 1 else files[0]})

    def answer(self, sample: Any) -> dict[str, Any]:
        """The network's answer to a prepared scan; errors as of `segment`."""
        if self.broken_off:
            self._build()
        self.broken_off = True
        with quiet(), _said_plainly():
            self._built("dataset").data = [{PREPARED: sample}]
            self.workflow.run()
            state = self._built("evaluator").state
            found = {**state.batch[0], **state.output[0]}
            state.output = state.batch = None  # a scan's maps can take gigabytes
            self._built("dataset").data = [None]
        self.broken_off = False
        return found

    @torch.inference_mode()
    def expect(self, answer: Mapping[str, Any]) -> Expectation | None:
        """How good an answer is, before it is written; None of a model that was not calibrated on held-out scans."""
        if self.expected is None:
            return None
        view = None
        if self.expected.needs_second_view:
            network: TwoModels = self._built("network").eval()
            image = answer["image"].as_tensor()[None].to(network.decision.offsets.device)
            view = second_view(image, network, self._built("inferer"))
        return self.expected(answer["pred"], answer["image"], view=view)

    @torch.inference_mode()
    def write(self, answer: dict[str, Any]) -> None:
        """Bring an answer to the scan's own grid and write its files; in any thread, one scan at a time."""
        with quiet(), _said_plainly():
            self._built("postprocessing")(answer)
        return_freed_memory()

    def predictor(self) -> Predictor:
        """A session with the bundle's own network and transforms, after `load`."""
        labels, value = self.labels, self._value
        return Predictor(
            LoadedModel(
                checkpoint=self.checkpoint,
                network=self._built("network").eval(),
                inferer=self._built("inferer"),
                preprocessing=self._built("preprocessing"),
                labels=labels,
                in_channels=int(value("in_channels")),
                modalities=self.modalities,
                largest_component=pieces("largest_component", value("largest_component")),
            )
        )

    def _build(self) -> None:
        """Also after an error: ignite's engine would go on with the scan that broke it, and pass over the next one."""
        with quiet(), _said_plainly():
            self.workflow.initialize()
            self._built("evaluator")
        self.broken_off = False

    def _built(self, key: str) -> Any:
        return self._opened.value(key)

    def _value(self, key: str) -> Any:
        with _said_plainly():
            return self._built(key)


def _override_file(root: Path, name: str) -> Path:
    own = root / "configs" / (name if name.endswith(".json") else f"{name}.json")
    for file in (expanded(name), own):
        if file.is_file():
            return real(file)
    there = sorted(file.name for file in (root / "configs").glob("*.json") if not file.name.startswith(NO_OVERRIDES))
    have = f"one of the bundle {root.name!r}: {', '.join(there)}" if there else f"the bundle {root.name!r} has none"
    raise FileNotFoundError(f"no config {name!r}: give a path, or {have}")


@contextmanager
def _said_plainly() -> Iterator[None]:
    """What is wrong, and of a full GPU what to do."""
    try:
        with plain_errors():
            yield
    except torch.cuda.OutOfMemoryError as error:
        raise DataError(f"the GPU's memory is full ({str(error).splitlines()[0]}); try --device cpu") from error
