"""The network that inference uses, prompts and all, as one file that runs without this package: TorchScript or ONNX."""

from __future__ import annotations

import io
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from monai.data import save_net_with_metadata
from torch import Tensor, nn
from torch.nn import functional as F

import aps_components
from aps_components.bundle.locate import CONFIG, bundle_metadata, locate_bundle, require_weights
from aps_components.configuration import BundleConfig, needed_by
from aps_components.configuration.bundle_workflow import TRAINED_WITH
from aps_components.convolution import plain_convolutions
from aps_components.errors import root_cause
from aps_components.files import ensure_writable, expanded, refuse_special, replacing
from aps_components.models import TRAINED_KEYS, Predictor, read_settings
from aps_components.options import number

Format = Literal["torchscript", "onnx"]
Network = Callable[[Tensor], Tensor]
SUFFIXES: dict[str, Format] = {".ts": "torchscript", ".pt": "torchscript", ".onnx": "onnx"}
OPSET = 18  # the lowest that torch's exporter writes without a conversion
INPUT, OUTPUT = "image", "pred"  # as the bundle's metadata.json calls them
# Of a class probability. TorchScript runs the same kernels. ONNX Runtime has its own, which round differently: that
# alone gives 1e-4 to 1e-3, more where much of a window is constant (docs/how-to/export-a-model.md).
TOLERANCES: dict[Format, float] = {"torchscript": 1e-5, "onnx": 1e-2}
_SETTINGS = ("labels", "modalities", "in_channels", "spacing", "roi_size", "intensity", "predictor", "mc_samples")
_AROUND = ("overlap", "mirror_axes", "largest_component")  # of what inference does with a network's answers


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with the network that it was made of."""

    path: Path
    format: Format
    settings: dict[str, Any]
    """What the file says about itself."""
    bytes: int
    largest_difference: float
    """Of a class probability, over all voxels of all images tried."""
    tolerance: float
    """The largest difference allowed."""
    equal_labels: float
    """Share of voxels with the same most probable class."""
    eager_seconds: float
    """A window, in PyTorch."""
    exported_seconds: float
    """A window, in what runs the file."""

    def __str__(self) -> str:
        size = ", ".join(str(extent) for extent in self.settings["roi_size"])
        channels, classes = self.settings["in_channels"], len(self.settings["labels"])
        return (
            f"{self.path}: {self.format}, {self.bytes / 1e6:.1f} MB, predictor {self.settings['predictor']}\n"
            f"  {INPUT} [B, {channels}, {size}] -> {OUTPUT} [B, {classes}, {size}], logits, float32\n"
            f"  largest difference of a probability to PyTorch: {self.largest_difference:.2g} "
            f"(at most {self.tolerance:g} allowed); same label in {100 * self.equal_labels:.4f} % of the voxels\n"
            f"  seconds a window: {self.eager_seconds:.2f} in PyTorch, {self.exported_seconds:.2f} exported"
        )


def export_network(
    bundle: str | os.PathLike[str],
    *,
    format: Format,
    out: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    predictor: Predictor | None = None,
    tolerance: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write ``network_def`` of a bundle's ``inference.json``, with trained weights, to one file, and check that file.

    The file takes windows of ``roi_size``, any number at once, and gives logits. The Monte-Carlo dropout masks and the
    window's size are part of it.

    Args:
        bundle: what :func:`locate_bundle` takes.
        format: ``torchscript`` or ``onnx``.
        out: the file; nothing is written there before it is checked.
        checkpoint: the weights; the bundle's ``models/model.pt`` by default.
        predictor: ``a`` (the V-Net alone), ``b`` or ``average``; the configuration's by default.
        tolerance: largest difference of a class probability; :data:`TOLERANCES` by default.
        options: other keys of ``inference.json`` to change, such as ``roi_size``.

    Raises:
        ValueError: the format, the file's name or an option is wrong, or the weights do not fit.
        FileNotFoundError: no such bundle, or it has no weights.
        RuntimeError: the network could not be exported, or the file's answers are not those of the network.
    """
    out = _checked_name(expanded(out), format)
    tolerance = checked_tolerance(tolerance, format)
    root = locate_bundle(bundle)
    changes = {**(options or {}), "checkpoint": str(checkpoint or require_weights(root))}
    network, settings = trained_network(root, changes if predictor is None else {**changes, "predictor": predictor})
    shape = (settings["in_channels"], *settings["roi_size"])
    ensure_writable(out.parent)
    with replacing(out) as unchecked:
        exported: Network
        if format == "torchscript":
            exported = _to_torchscript(network, shape, unchecked, root=root, settings=settings)
        else:
            exported = _to_onnx(network, shape, unchecked, settings=settings)
        difference, equal = compare(network, exported, shape)
        if not difference <= tolerance:  # nor where it is no number
            raise RuntimeError(
                f"{out} was not written: a probability differs by {difference:.2g} from PyTorch's, and "
                f"{100 * (1 - equal):.3g} % of the labels; allow more than {tolerance:g} with --tolerance, or try "
                "--predictor a"
            )
        one = next(trial_images(shape))[:1]
        return ExportReport(
            out,
            format,
            settings,
            unchecked.stat().st_size,
            difference,
            tolerance,
            equal,
            seconds(network, one),
            seconds(exported, one),
        )


def trial_images(shape: Sequence[int]) -> Iterator[Tensor]:
    """Images [B, C, D, H, W] to compare networks on: smooth ones, two at once, and noise.

    Args:
        shape: (C, D, H, W).
    """
    generator = torch.Generator().manual_seed(0)
    for coarse in (4, 16):
        field = torch.randn(2, shape[0], *(max(1, size // coarse) for size in shape[1:]), generator=generator)
        yield F.interpolate(field, size=tuple(shape[1:]), mode="trilinear")
    yield torch.randn(1, *shape, generator=generator)


def compare(network: Network, exported: Network, shape: Sequence[int]) -> tuple[float, float]:
    """The largest difference of a class probability on :func:`trial_images`, and the share of equal labels.

    Args:
        network: gives logits [B, classes, D, H, W].
        exported: the same.
        shape: (C, D, H, W) of an image.
    """
    largest, equal, voxels = torch.zeros(()), 0, 0
    with torch.no_grad(), plain_convolutions():
        for image in trial_images(shape):
            expected, given = network(image).softmax(dim=1), exported(image).softmax(dim=1)
            largest = torch.maximum(largest, (expected - given).abs().max())  # NaN stays
            same = expected.argmax(dim=1) == given.argmax(dim=1)
            equal, voxels = equal + int(same.sum()), voxels + same.numel()
    return largest.item(), equal / voxels


def largest_of(differences: Iterable[float]) -> float:
    """The largest of some differences; NaN if one is NaN, which Python's ``max`` may pass over."""
    return torch.tensor([*differences]).max().item()


def seconds(network: Network, image: Tensor, *, repeats: int = 3) -> float:
    """The shortest of some runs, after one that does not count."""
    durations = []
    with torch.no_grad():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            network(image)
            durations.append(time.perf_counter() - start)
    return min(durations[1:])


def _checked_name(out: Path, format: Format) -> Path:
    if format not in get_args(Format):
        raise ValueError(f"format {format!r} must be one of {', '.join(get_args(Format))}")
    refuse_special(out)
    if SUFFIXES.get(out.suffix, format) != format:
        raise ValueError(f"{out} does not name a {format} file: give one such as model.{_suffix(format)}")
    return out


def checked_tolerance(tolerance: Any, format: Format) -> float:
    """The largest difference of a probability that is taken, a format's own where none is given."""
    return TOLERANCES[format] if tolerance is None else number(least=0, most=1)("tolerance", tolerance)


def _suffix(format: Format) -> str:
    return "ts" if format == "torchscript" else "onnx"


def trained_network(root: Path, changes: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The network with its weights, on the CPU and in eval mode, and what the exported file is to say about itself."""
    config = BundleConfig.read(root, CONFIG.name)
    config.lay_over({**changes, "bundle_root": str(root)})
    with_effect = needed_by(config.parser, ("network_def", *_SETTINGS)) | {*TRAINED_KEYS, "checkpoint"}
    if without := sorted(key for key in changes if key.partition("#")[0] not in with_effect):
        raise ValueError(f"--{without[0]} changes nothing of the network that is exported: leave it out")
    try:
        settings = {key: config.value(key) for key in (*_SETTINGS, *_AROUND)}
        for key in ("network_def", TRAINED_WITH):  # built here, and loaded below, whose errors say enough
            config.value(key)
    except Exception as error:  # MONAI puts what is wrong into errors of its own
        raise ValueError(str(root_cause(error))) from error
    network = config.load_network(changes["checkpoint"]).eval()
    metadata = bundle_metadata(root)
    about = {"name": metadata.get("name", root.name), "version": metadata.get("version")}
    made_with = {"aps_components": aps_components.__version__, "torch": torch.__version__}
    temperature = read_settings(changes["checkpoint"]).get("temperature", 1.0)
    return network, {**about, **settings, "temperature": temperature, "made_with": made_with}


def _to_torchscript(
    network: nn.Module, shape: Sequence[int], path: Path, *, root: Path, settings: Mapping[str, Any]
) -> Network:
    """Trace, save as MONAI's ``ckpt_export`` does, and load again."""
    with warnings.catch_warnings(), torch.no_grad():
        # Every condition on a tensor that tracing warns of is one on a size, which is fixed, or checked by `compare`.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        traced = torch.jit.trace(network, torch.rand(1, *shape), check_trace=False)
        extra = {
            "inference.json": (root / CONFIG).read_bytes(),
            "export.json": json.dumps(settings).encode(),
        }
        metadata = bundle_metadata(root)
        # Through memory: torch's own writer has the process killed (std::terminate) where the disk is full.
        content = io.BytesIO()
        save_net_with_metadata(traced, content, include_config_vals=False, meta_values=metadata, more_extra_files=extra)
        path.write_bytes(content.getbuffer())
        return torch.jit.load(str(path))


def _to_onnx(network: nn.Module, shape: Sequence[int], path: Path, *, settings: Mapping[str, Any]) -> Network:
    """Export, save with the settings as ``metadata_props``, each as JSON, and load into ONNX Runtime."""
    run = write_onnx(
        network,
        {INPUT: torch.rand(2, *shape)},  # of one alone, torch.export would take the batch for a constant
        path,
        outputs=[OUTPUT],
        free={INPUT: {0: torch.export.Dim("batch", min=1)}},
        settings=settings,
    )
    return lambda image: run({INPUT: image})[OUTPUT]


def write_onnx(
    network: nn.Module,
    example: Mapping[str, Tensor],
    path: Path,
    *,
    outputs: Sequence[str],
    free: Mapping[str, Mapping[int, Any]],
    settings: Mapping[str, Any],
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Write a network as ONNX, and load it into ONNX Runtime.

    Args:
        network: takes the inputs in the order of ``example``, those after the first as ``*inputs``, and gives a tensor
            or several.
        example: input names and what they may be.
        path: of the file.
        outputs: names.
        free: axes of the inputs that may have other sizes.
        settings: go into the file as ``metadata_props``, each as JSON.

    Returns:
        Runs the file: inputs by name to outputs by name.

    Raises:
        RuntimeError: a package is missing, or the network cannot be exported.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RuntimeError(f'{error.name} is not installed; run: pip install "aps-components[export]"') from error
    first, *others = (dict(free.get(name, {})) for name in example)
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                network,
                tuple(example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(example),
                output_names=list(outputs),
                dynamic_shapes=(first, tuple(others)) if others else (first,),
                verbose=False,
            )
        except Exception as error:
            raise RuntimeError(f"no ONNX export of this network ({_reason(error)}); try --predictor a") from error
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, which name this machine's folders
    program.model.metadata_props.update({key: json.dumps(value) for key, value in settings.items()})
    program.save(str(path), external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(list(outputs), {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(outputs, found, strict=True)}

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on operators of torchvision and on its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
