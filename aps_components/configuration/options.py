"""Every option of a bundle's workflows by name, with its type and range: the one place that knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import torch

from aps_components.configuration.targets import arguments_of, kind_of_argument
from aps_components.data import AUGMENTATIONS, intensity_transforms
from aps_components.data.geometry import LARGEST, SMALLEST
from aps_components.data.label_values import ignore_faults, parsed_label_values
from aps_components.data.partial import MOST_CLASSES
from aps_components.machine import chosen_device
from aps_components.models import Precision, Predictor
from aps_components.models.build import BackboneKind
from aps_components.models.settings import MOST_VOXELS
from aps_components.networks.feature_fusion import FusionKind
from aps_components.networks.voxel_shape import checked_kernels, checked_strides, levels_of, roi_faults
from aps_components.options import (
    SEED,
    Kind,
    axes,
    choice,
    meant,
    number,
    optional,
    pieces,
    text,
    three,
    truth,
    whole,
)
from aps_components.prompts import AlteredTargets, SimulatedUser

MOST_SAMPLES = 1000
# How a text may not begin that MONAI's configuration reads: it would be run, looked up or merged.
SPECIAL = ("$", "@", "%", "+", "_")
INSIDE = ("#", "::", "@")  # of a name that stands in an expression: a reference to something else


def class_names(name: str, value: Any) -> dict[str, str]:
    """Class value, as text, to name: "0", "1", ... in order and without a gap.

    Raises:
        ValueError: anything else, such as the text "1:liver,2:kidney"; how to write it.
    """
    if isinstance(value, str):
        raise ValueError(f"{name} {value!r} is a text: write {_as_mapping(name, value)}")
    labels = {str(key): entry for key, entry in value.items()} if isinstance(value, Mapping) else {}
    if not isinstance(value, Mapping) or list(labels) != [str(index) for index in range(len(labels))]:
        raise ValueError(
            f'{name} {value!r} must map "0", "1", ... in order and without a gap to names: renumber the classes, and '
            "say by label_values which value in the files is which class"
        )
    if not 2 <= len(labels) <= MOST_CLASSES:
        raise ValueError(
            f"{name} {value!r} has {len(labels)} classes: give the background and 1 to {MOST_CLASSES - 1} others"
        )
    _check_names(name, labels.values())
    texts = [str(entry) for entry in labels.values()]
    if twice := sorted({entry for entry in texts if texts.count(entry) > 1}):
        raise ValueError(f"{name} {value!r} gives the name {twice[0]!r} twice: name each class once")
    return labels


def intensity(name: str, value: Any) -> Any:
    """As ``data.intensity_transforms`` takes it."""
    if isinstance(value, Mapping) and isinstance(window := value.get("window"), list | tuple):
        value = {**value, "window": [number()(f"{name}#window", edge) for edge in window]}
    try:
        intensity_transforms("image", value)
    except (TypeError, ValueError) as error:
        raise ValueError(str(error) if isinstance(error, ValueError) else f"{name} {value!r} does not fit") from error
    return value


def label_values(name: str, value: Any) -> dict[str, int] | None:
    """Value in the label files, as text, to class; None for none."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f'{name} {value!r} must be an object, or null: such as {{"4": 3}}')
    for key in value:
        if not str(key).isdecimal():
            raise ValueError(f'{name} names the value {key!r}: a whole number as text, such as "4"')
    return {str(key): whole(least=0)(f"{name}#{key}", target) for key, target in value.items()}


def regions(name: str, value: Any) -> dict[str, list[int]] | None:
    """Name to the foreground classes whose union it is; None for none."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} {value!r} must be an object, or null")
    if not value:
        raise ValueError(f"{name} {{}} is empty: name a region, or write null to report the classes")
    _check_names(name, value)
    for region, members in value.items():
        listed = isinstance(members, list | tuple) and all(type(member) is int for member in members)
        if not listed or not members or len(set(members)) < len(members):
            raise ValueError(f"{name} {region!r} is {members!r}: list foreground classes, each once")
    return {str(region): list(members) for region, members in value.items()}


def modalities(name: str, value: Any) -> list[str] | None:
    """Names of the files of a case, in channel order; None takes a case as it is."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{name} {value!r} must be a list of names, one per channel, or null")
    _check_names(name, value)
    return [str(entry) for entry in value]


def class_weights(name: str, value: Any) -> list[float] | None:
    """A number for each class, background first; None for equal ones."""
    if value is None:
        return None
    mend = f"{name} {value!r} must be numbers from 0 on, not all of them 0"
    if not isinstance(value, list | tuple):
        raise ValueError(f"{mend}: one for each class, in a list, or null")
    try:
        weights = [number(least=0)(name, weight) for weight in value]
    except ValueError:
        raise ValueError(mend) from None
    if not any(weights):
        raise ValueError(mend)
    return weights


def triples(name: str, value: Any) -> Any:
    """Lists of three, such as strides; None for a network's own. How many there must be depends on the network."""
    if isinstance(value, list | tuple):
        return [list(entry) if isinstance(entry, tuple) else entry for entry in value]
    return value


def simulated_user(name: str, value: Any) -> dict[str, Any] | None:
    """Arguments of ``prompts.SimulatedUser``, and under ``targets`` of ``AlteredTargets``; None for nobody."""
    if value is None:
        return None
    given = _arguments(name, value, of=SimulatedUser)
    if "targets" in given:
        given["targets"] = _arguments(f"{name}#targets", given["targets"], of=AlteredTargets)
    try:
        SimulatedUser(**{**given, "targets": AlteredTargets(**given.get("targets", {}))})
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return given


def _arguments(name: str, value: Any, *, of: Callable[..., Any]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f'{name} {value!r} must be an object of arguments, such as {{"rounds": 2}}, or null')
    known = arguments_of(of) or {}
    if unknown := [str(key) for key in value if key not in known]:
        raise ValueError(f"no option --{name}#{unknown[0]}; {meant(unknown[0], known, inside=name)}")
    kinds = {key: kind_of_argument(of, key) for key in value}
    return {
        key: entry if (kind := kinds[key]) is None else kind(f"{name}#{key}", entry) for key, entry in value.items()
    }


def _share(name: str, value: Any) -> float:
    try:
        return number(least=0, most=1)(name, value)
    except ValueError:
        raise ValueError(f"{name} {value!r} must be a share in [0, 1]") from None


def _device(name: str, value: Any) -> str | torch.device:
    """A device that this machine has; a name stays one."""
    device = chosen_device(name, value)
    return str(device) if isinstance(value, str) else device


_COUNT, _AT_LEAST_ONE = whole(least=0), whole(least=1)
_SIZE = number(least=SMALLEST, most=LARGEST)  # as of the scans themselves
_FILE = optional(text)

# Of a dataset: the block of values in which bundles differ.
DATASET_OPTIONS: dict[str, Kind] = {
    "labels": class_names,
    "label_values": label_values,
    "ignore": optional(_COUNT),
    "regions": regions,
    "in_channels": _AT_LEAST_ONE,
    "modalities": modalities,
    "spacing": optional(three(_SIZE, f"sizes in mm from {SMALLEST:g} to {LARGEST:g}", "[1,1,3]")),
    "roi_size": three(whole(least=1, most=MOST_VOXELS), "sizes in voxels", "[96,96,64]"),
    "backbone": choice(*get_args(BackboneKind)),
    "strides": triples,
    "kernel_sizes": triples,
    "intensity": intensity,
    "augmentation": choice(*AUGMENTATIONS),
    "flip_axes": axes,
    "swelling": _share,
    "balanced_crops": _share,
    "class_weights": class_weights,
    "largest_component": pieces,
    "fusion": choice(*get_args(FusionKind)),
    "labeled_count": optional(_AT_LEAST_ONE),
    "validation_count": _COUNT,
}
TRAINING_OPTIONS: dict[str, Kind] = {
    **DATASET_OPTIONS,
    "seed": SEED,
    "epochs": _AT_LEAST_ONE,
    "epoch_length": _AT_LEAST_ONE,
    "warmup_epochs": _COUNT,
    "val_interval": _AT_LEAST_ONE,
    "labeled_batch": _AT_LEAST_ONE,
    "unlabeled_batch": _COUNT,
    "learning_rate": number(above=0),
    "weight_decay": number(least=0),
    "gradient_clip": number(above=0),
    "ema_decay": number(least=0, below=1),
    "decision_interval": _COUNT,
    "cuda_graphs": truth,
    "precision": choice(*get_args(Precision)),
    "mc_samples": whole(least=1, most=MOST_SAMPLES),
    "predictor": choice(*get_args(Predictor)),
    "simulated_user": simulated_user,
    "train_a": truth,
    "cache_rate": _share,
    "cache_dir": _FILE,
    "num_workers": _COUNT,
    "overlap": number(least=0, below=1),
    "mirror_axes": axes,
    "device": _device,
    "bundle_root": text,
    "dataset_dir": text,
    "ckpt_dir": text,
    "output_dir": text,
    "pretrained": _FILE,
    "pretrained_part": choice("a", "all", "fitting"),
    "sam_checkpoint": _FILE,
    # What a training has in other places of its configuration, by the ids that MONAI's own tools change.
    "train#trainer#max_epochs": _AT_LEAST_ONE,
    "datalist#unlabeled_count": optional(_COUNT),
}
# Of evaluation and inference alone.
ANSWERING_OPTIONS: dict[str, Kind] = {
    "split": choice("training", "validation", "test"),
    "checkpoint": text,
    "sw_batch_size": _AT_LEAST_ONE,
    "save_maps": truth,
    "separate_folder": truth,
    "load_pretrain": truth,
    "image_key": text,
    "output_ext": text,
    "output_dtype": text,
    "output_postfix": text,
}
OPTIONS: dict[str, Kind] = {**TRAINING_OPTIONS, **ANSWERING_OPTIONS}


def contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit together among options that each fit by themselves, a sentence each.

    Args:
        values: some of the options of a dataset, as they are meant; ``labels`` among them.
    """
    yield from network_faults(values)
    classes = len(values["labels"])
    for value, target in (values.get("label_values") or {}).items():
        if target >= classes:
            yield (
                f"label_values maps {value!r} to class {target!r}: take one of 0 to {classes - 1}, or add it to labels"
            )
    if (ignore := values.get("ignore")) is not None:
        mapping = parsed_label_values(values.get("label_values"))
        yield from ignore_faults(ignore, num_classes=classes, label_values=mapping)
    for name, members in (values.get("regions") or {}).items():
        if not all(0 < member < classes for member in members):
            yield f"regions {name!r} is {members!r}: list foreground classes, 1 to {classes - 1}, each once"
    weights = values.get("class_weights")
    if weights is not None and len(weights) != classes:
        yield (
            f"class_weights {weights} has {len(weights)} numbers for {classes} classes: give one per class, "
            "background first"
        )
    names, channels = values.get("modalities"), values.get("in_channels")
    if names is not None and channels is not None and len(names) != channels:
        yield (f"modalities {names} names {len(names)} but in_channels is {channels}: name one per channel, or null")


def network_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """What stands against strides and kernels of a backbone, or else against a patch for them.

    Args:
        values: some of ``backbone``, ``strides``, ``kernel_sizes`` and ``roi_size``; by default a V-Net's.
    """
    try:
        strides = checked_strides(values.get("strides"), exactly=levels_of(values.get("backbone", "vnet")))
        checked_kernels(values.get("kernel_sizes"), strides=strides)
    except ValueError as error:
        yield str(error)
        return
    if "roi_size" in values:
        yield from roi_faults(values["roi_size"], strides)


def _check_names(key: str, names: Any) -> None:
    for name in names:
        is_name = isinstance(name, str) and name.strip() and not name.startswith(SPECIAL)
        if not is_name or any(part in name for part in INSIDE):
            raise ValueError(
                f'{key} has the name {name!r}: take a text without "#", "::" and "@" that begins with none of '
                f"{' '.join(SPECIAL)}, which mean something else to MONAI's configuration"
            )


def _as_mapping(name: str, value: str) -> str:
    """How the text ``1:liver,2:kidney`` of ``aps new-bundle`` is written here."""
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    names = [entry.partition(":")[2].strip() or entry for entry in entries]
    first = [] if any(entry.partition(":")[0].strip() == "0" for entry in entries) else ["background"]
    pairs = ",".join(f"'{index}':'{entry}'" for index, entry in enumerate([*first, *names]))
    return f'an object, such as --{name} "{{{pairs}}}"'
