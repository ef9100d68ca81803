"""Seconds and peak memory of a training step per patch, by part, beside MONAI's DynUNet and the V-Net alone.

    python benchmarks/train_step.py --precisions bf16 --repeats 3

``network``: one patch through Models A and B with T Monte-Carlo samples, a plain loss, backward.
``step``: the whole method on as many unlabelled patches as labelled ones (``--batch`` of each): teacher, copy-paste,
student, all losses, backward, clipping, AdamW, EMA. Its seconds are per patch, its memory is that of the whole process.
``vnet``, ``dynunet``: forward and backward of one patch; the DynUNet as nnU-Net plans it for such a patch.

``graphs``: that step with the passes of student and teacher as CUDA graphs, on a GPU.
``compiled``: that step with the student's forward pass through ``torch.compile``, which takes a minute or more first.

    python benchmarks/train_step.py --device cuda --configurations step,graphs,compiled --batch 2 --no-recompute

On a GPU the memory is what torch allocated there, and the seconds are not split into parts.

Every measurement is a process of its own, so that its peak is its own; the configurations take turns, so that whatever
else the machine does meets them all alike. The median of the turns is printed, and the range of the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from measuring import MEBIBYTE, Stopwatch, peak_bytes, synchronize
from tqdm import tqdm

from aps_components.machine import cpu_model

# torch, and what of the package needs it, are imported in the measured processes only: Linux counts the parent's memory
# at the fork towards a child's peak.

DEFAULT = ("network", "step", "vnet", "dynunet")
STEPS = ("step", "graphs", "compiled")
CONFIGURATIONS = {
    "network": "AutoPromptSeg, network",
    "step": "AutoPromptSeg, whole step",
    "graphs": "AutoPromptSeg, whole step, CUDA graphs",
    "compiled": "AutoPromptSeg, whole step, compiled",
    "vnet": "V-Net alone",
    "dynunet": "MONAI DynUNet",
}
TEACHER, A, SAMPLES, PROMPTS = "teacher, copy-paste", "A forward", "further MC samples", "uncertainty, prompts"
B, LOSSES, BACKWARD, UPDATE = "B forward", "losses", "backward", "clip, AdamW, EMA"
PARTS = (TEACHER, A, SAMPLES, PROMPTS, B, LOSSES, BACKWARD, UPDATE)
REST, TOTAL = "rest", "all"


def watch_parts() -> Stopwatch:
    """Time the parts of AutoPromptSeg and of its training where they stand in the package."""
    import torch

    from aps_components.models import auto_prompt_seg
    from aps_components.networks.sam3d import Sam3d
    from aps_components.networks.vnet import VNet
    from aps_components.training import MeanTeacher, SemiSupervisedObjective

    watch, model = Stopwatch(), auto_prompt_seg.AutoPromptSeg
    watch.wrap(SemiSupervisedObjective, "patches", TEACHER)
    watch.wrap(VNet, "encode", A)
    watch.wrap(VNet, "decode", A)
    watch.wrap(auto_prompt_seg, "monte_carlo_samples", SAMPLES)
    watch.wrap(model, "_prompts", PROMPTS)
    watch.wrap(Sam3d, "encode", B)
    watch.wrap(Sam3d, "decode", B)
    watch.wrap(SemiSupervisedObjective, "__call__", LOSSES, opaque=False)
    watch.wrap(torch.Tensor, "backward", BACKWARD)
    watch.wrap(torch.nn.utils, "clip_grad_norm_", UPDATE)
    watch.wrap(torch.optim.AdamW, "step", UPDATE)
    watch.wrap(MeanTeacher, "update_parameters", UPDATE)
    return watch


def nnunet_strides(roi: tuple[int, ...]) -> list[tuple[int, ...]]:
    """nnU-Net's rule (Isensee et al. 2021) for equal voxel sizes: halve every axis that stays at 4 voxels or more."""
    size = list(roi)
    strides: list[tuple[int, ...]] = [(1, 1, 1)]
    while any(extent >= 8 and extent % 2 == 0 for extent in size):
        strides.append(tuple(2 if extent >= 8 and extent % 2 == 0 else 1 for extent in size))
        size = [extent // stride for extent, stride in zip(size, strides[-1], strict=True)]
    return strides


def build(arguments: argparse.Namespace) -> Callable[[], None]:
    """What is measured: a call runs one step."""
    import torch
    from torch.nn import functional as F

    from aps_components.models import autocast, build_auto_prompt_seg
    from aps_components.networks.vnet import VNet

    roi, classes, layout, device = tuple(arguments.roi), arguments.classes, torch.channels_last_3d, arguments.device
    image = torch.randn(1, 1, *roi, device=device).to(memory_format=layout)
    label = torch.randint(classes, (1, *roi), device=device)
    model: Any

    if arguments.measure in STEPS:
        return _semi_supervised_step(arguments)
    if arguments.measure == "network":
        model = build_auto_prompt_seg(
            num_classes=classes, roi_size=roi, mc_samples=arguments.samples, recompute=arguments.recompute
        )

        def loss() -> torch.Tensor:
            output = model.training_forward(image)
            assert output.logits_b is not None  # and so for the IoU: Model B is on
            assert output.iou_predictions is not None
            terms = [F.cross_entropy(logits.float(), label) for logits in (output.logits_a, output.logits_b)]
            return torch.stack([*terms, output.variance.mean(), output.iou_predictions.mean()]).sum()
    elif arguments.measure == "vnet":
        model = VNet(num_classes=classes, recompute=arguments.recompute)

        def loss() -> torch.Tensor:
            output = model(image)
            return F.cross_entropy(output.logits.float(), label) + output.variance.mean()
    else:
        from monai.networks.nets import DynUNet

        strides = nnunet_strides(roi)
        filters = [min(320, 32 * 2**level) for level in range(len(strides))]
        model = DynUNet(3, 1, classes, [3] * len(strides), strides, upsample_kernel_size=strides[1:], filters=filters)

        def loss() -> torch.Tensor:
            return F.cross_entropy(model(image).float(), label)

    model.to(device, memory_format=layout).train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with autocast(device, arguments.precision):
            value = loss()
        value.backward()

    return step


def _semi_supervised_step(arguments: argparse.Namespace) -> Callable[[], None]:
    """The trainer's own iteration on random patches."""
    import torch
    from torch.nn import functional as F
    from torch.utils.data import DataLoader

    from aps_components.models import build_auto_prompt_seg
    from aps_components.training import MeanTeacher, SemiSupervisedTrainer, build_objective

    size = (arguments.batch, 1, *arguments.roi)

    def image() -> torch.Tensor:
        """Blobs and some noise: finding the largest component of mere noise would take far longer than of a scan."""
        coarse = torch.randn(arguments.batch, 1, *(extent // 16 for extent in arguments.roi))
        return F.interpolate(coarse, size=arguments.roi, mode="trilinear") + 0.1 * torch.randn(size)

    batch: dict[str, dict[str, Any]] = {
        "labeled": {"image": image(), "label": torch.randint(arguments.classes, size)},
        "unlabeled": {"image": image()},
    }
    for part in batch.values():
        part["name"] = ["random"] * arguments.batch
    model = build_auto_prompt_seg(
        num_classes=arguments.classes,
        roi_size=arguments.roi,
        mc_samples=arguments.samples,
        predictor=arguments.teacher,
        recompute=arguments.recompute,
    ).to(arguments.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    trainer = SemiSupervisedTrainer(
        device=arguments.device,
        max_epochs=1,
        train_data_loader=DataLoader([batch], batch_size=None),  # type: ignore[arg-type]  # a list will do
        network=model,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        objective=build_objective(user=None if arguments.measure == "graphs" else {}),
        teacher=MeanTeacher(model),
        precision=arguments.precision,
        cuda_graphs=arguments.measure == "graphs",
    )
    if arguments.measure == "compiled":
        trainer.student_forward = torch.compile(trainer.student_forward)

    def step() -> None:
        trainer.state.iteration += 1  # the decision is adjusted in the first and every fourth after it
        trainer._iteration(trainer, batch)

    return step


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One configuration in this process: ``--warmup`` steps, then the mean of ``--steps`` ones."""
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.deterministic = arguments.cudnn == "deterministic"
    torch.backends.cudnn.benchmark = arguments.cudnn == "benchmark"
    watch = watch_parts()
    if arguments.measure in ("network", *STEPS):
        from aps_components.memory import keep_freed_memory

        keep_freed_memory()  # as the bundle's training does
    baseline = peak_bytes(arguments.device)
    step = build(arguments)
    for _ in range(arguments.warmup):
        step()
    turns = []
    for _ in range(arguments.steps):
        watch.reset()
        synchronize(arguments.device)
        start = time.perf_counter()
        step()
        synchronize(arguments.device)
        total = time.perf_counter() - start
        rest = total - sum(watch.seconds.values())
        turns.append({TOTAL: total, **{name: watch.seconds[name] for name in PARTS}, REST: rest})
    patches = 2 * arguments.batch if arguments.measure in STEPS else 1
    return {
        "seconds": {name: statistics.mean(turn[name] for turn in turns) / patches for name in turns[0]},
        "peak": peak_bytes(arguments.device),
        "baseline": baseline,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(arguments.device) if arguments.device != "cpu" else None,
    }


def computes_bf16(device: str) -> bool:
    """Asked in a process of its own, as this one must not import torch."""
    question = f"from aps_components.models import resolved_precision; print(resolved_precision('{device}', 'auto'))"
    return (
        subprocess.run([sys.executable, "-c", question], check=True, capture_output=True, text=True).stdout == "bf16\n"
    )


def in_own_process(arguments: argparse.Namespace, name: str, precision: str) -> dict[str, Any]:
    """:func:`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", name, "--precision", precision, "--roi", *map(str, arguments.roi)]
    for option in ("batch", "samples", "classes", "steps", "warmup", "threads", "teacher", "device", "cudnn"):
        command += [f"--{option}", str(getattr(arguments, option))]
    command += [] if arguments.recompute else ["--no-recompute"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(f"{name} in {precision} failed:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def median_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run whose seconds are the median, so that its parts add up to them."""
    return sorted(runs, key=lambda run: run["seconds"][TOTAL])[(len(runs) - 1) // 2]


def report(arguments: argparse.Namespace, results: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """Two Markdown tables."""
    roi = "x".join(map(str, arguments.roi))
    first = next(iter(results.values()))[0]
    machine = first["device"] or f"{cpu_model()}, {arguments.threads} threads"
    lines = [
        f"{machine}, torch {first['torch']}, Python {platform.python_version()}",
        f"Patch {roi}, {arguments.classes} classes, T = {arguments.samples}, step of {arguments.batch} labelled + "
        f"{arguments.batch} unlabelled patches, median of {arguments.repeats}",
        "",
        "| configuration | precision | s per patch | range | peak MiB | of it before the model |",
        "|---|---|---:|---:|---:|---:|",
    ]
    digits = 2 if arguments.device == "cpu" else 4
    for (name, precision), runs in results.items():
        peak, baseline = (statistics.median(run[key] for run in runs) / MEBIBYTE for key in ("peak", "baseline"))
        turns, middle = [run["seconds"][TOTAL] for run in runs], median_run(runs)["seconds"][TOTAL]
        lines.append(
            f"| {CONFIGURATIONS[name]} | {precision} | {middle:.{digits}f} "
            f"| {min(turns):.{digits}f}-{max(turns):.{digits}f} | {peak:.0f} | {baseline:.0f} |"
        )
    by_part = {key: median_run(runs)["seconds"] for key, runs in results.items() if key[0] in ("network", "step")}
    if by_part and arguments.device == "cpu":
        lines += ["", "| s per patch | " + " | ".join(f"{name}, {precision}" for name, precision in by_part) + " |"]
        lines.append("|---|" + "---:|" * len(by_part))
        for part in (*PARTS, REST, TOTAL):
            cells = (seconds[part] for seconds in by_part.values())
            lines.append(f"| {part} | " + " | ".join(f"{cell:.2f}" if cell else "" for cell in cells) + " |")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--configurations", default=",".join(DEFAULT), help="comma-separated")
    parser.add_argument("--precisions", help="comma-separated; fp32, and bf16 where the CPU computes it")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each configuration and precision")
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument("--steps", type=int, help="measured steps of each process; 1, on a GPU 12")
    parser.add_argument("--warmup", type=int, help="steps of each process before them; 1, on a GPU 5")
    parser.add_argument(
        "--recompute", action=argparse.BooleanOptionalAction, default=True, help="of the V-Net, to save memory"
    )
    parser.add_argument("--roi", type=int, nargs=3, default=(112, 112, 80), metavar=("D", "H", "W"))
    parser.add_argument("--batch", type=int, default=1, help="labelled patches, and as many unlabelled ones")
    parser.add_argument("--samples", type=int, default=2, help="Monte-Carlo samples, T")
    parser.add_argument("--classes", type=int, default=2, help="background included")
    parser.add_argument("--teacher", default="average", choices=("a", "b", "average"), help="who makes pseudo-labels")
    parser.add_argument(
        "--cudnn",
        default="deterministic",
        choices=("deterministic", "free", "benchmark"),
        help="how it chooses kernels on a GPU: the same each time, as in the bundles' training; freely; the fastest",
    )
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--measure", choices=CONFIGURATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="bf16", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.precisions is None:
        parsed.precisions = "fp32" if parsed.measure or not computes_bf16(parsed.device) else "fp32,bf16"
    if parsed.warmup is None:
        parsed.warmup = 1 if parsed.device == "cpu" else 5
    if parsed.steps is None:
        parsed.steps = 1 if parsed.device == "cpu" else 12
    for name, known in (("configurations", CONFIGURATIONS), ("precisions", ("fp32", "bf16"))):
        if unknown := set(getattr(parsed, name).split(",")) - set(known):
            parser.error(f"--{name} {', '.join(sorted(unknown))} must be among {', '.join(known)}")
    return parsed


def main() -> None:
    arguments = parse()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    keys = [
        (name, precision)
        for precision in arguments.precisions.split(",")
        for name in arguments.configurations.split(",")
    ]
    results: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in keys}
    with tqdm(total=arguments.repeats * len(keys), unit="process") as progress:
        for _ in range(arguments.repeats):
            for name, precision in keys:
                progress.set_description(f"{name} {precision}")
                results[name, precision].append(in_own_process(arguments, name, precision))
                progress.update()
    print(report(arguments, results))


if __name__ == "__main__":
    main()
