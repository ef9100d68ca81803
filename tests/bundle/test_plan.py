from dataclasses import replace

import numpy as np
import pytest

from aps_components.bundle.plan import make_plan, median_shape
from aps_components.data.case_folder import Case, find_cases
from aps_components.data.errors import DataError
from aps_components.data.fingerprint import CaseFacts, ClassFacts, Fingerprint, IntensityFacts, take_fingerprint

NOISE = np.linspace(0, 100, 50, dtype=np.float32)[None]


def facts(index, *, shape, spacing=(1.0, 1.0, 1.0), classes, **joined):
    """A case; `classes` maps a value to its voxels and centre along x, or is None; `joined`: facts of all of them."""
    entries = None
    if classes is not None:
        entries = {
            value: ClassFacts(voxels=voxels, millilitres=1.0, centre=(x, 0.5, 0.5), largest_share=1.0)
            for value, (voxels, x) in classes.items()
        }
    label = None if classes is None else f"labels/{index}.nii.gz"
    case = Case(str(index), (f"images/{index}.nii.gz",), label)
    return CaseFacts(case, shape, spacing, IntensityFacts((0.0,), 0.0, NOISE, NOISE), entries, **joined)


def fingerprint(classes, *, shape=(36, 50, 35), spacing=(1.0, 1.0, 1.0), labelled=5, unlabelled=2):
    cases = [facts(index, shape=shape, spacing=spacing, classes=classes) for index in range(labelled)]
    cases += [facts(f"u{index}", shape=shape, spacing=spacing, classes=None) for index in range(unlabelled)]
    return Fingerprint(cases=cases, channels=1, faults=[])


def test_small_crops_with_two_classes_side_by_side():
    plan = make_plan(fingerprint({1: (900, 0.3), 2: (1000, 0.7)}))
    block = plan.block
    assert block.labels == {"0": "background", "1": "label 1", "2": "label 2"}
    assert (block.label_values, block.spacing, block.roi_size) == (None, [1.0, 1.0, 1.0], [32, 48, 32])
    assert (block.intensity, block.flip_axes, block.balanced_crops) == ("zscore", [1, 2], 0.0)
    assert (block.class_weights, block.largest_component, block.labeled_count) == (None, True, None)
    assert plan.cpu == {"flip_axes": []}
    assert make_plan(fingerprint({1: (900, 0.3), 2: (1000, 0.7)}), budget="cpu").cpu == {}
    assert plan.warnings == []
    assert all(choice.value == getattr(block, key) and choice.reason for key, choice in plan.choices.items())


def test_labels_that_look_drawn_in_slices_are_named():
    found = fingerprint({1: (900, 0.5)})
    found.cases[1] = replace(found.cases[1], sliced=2)
    (line,) = make_plan(found).warnings
    assert line.startswith("labels/1.nii.gz: no two slices")
    assert '"labeled_slices" in a datalist' in line
    found.cases[:] = [replace(facts, sliced=0) if facts.classes else facts for facts in found.cases]
    (line,) = make_plan(found).warnings
    assert line.endswith("say --labeled_slices drawn:0")


def test_labels_drawn_along_another_axis_than_is_said_are_named():
    found = fingerprint({1: (900, 0.5)})
    said = replace(found.cases[1].case, said={"labeled_slices": "drawn"})
    found.cases[1] = replace(found.cases[1], sliced=0, case=said)
    (line,) = make_plan(found).warnings
    assert line.startswith("labels/1.nii.gz: no two slices")
    assert 'say drawn:0, or {"axis": 0, "indices": "drawn"} in a datalist' in line


def test_rare_class_in_a_large_anisotropic_scan():
    classes = {1: (2_000, 0.5), 7: (200_000, 0.5)}
    plan = make_plan(fingerprint(classes, shape=(512, 512, 40), spacing=(0.5, 0.5, 5.0)))
    assert plan.block.label_values == {"7": 2}
    assert plan.block.class_weights == [1.0, 2.67, 0.84]  # (101000 / 2000) ** 0.25, (101000 / 200000) ** 0.25
    assert plan.block.balanced_crops == 0.5
    assert plan.cpu == {
        "spacing": [0.625, 0.625, 5.0],  # by a quarter at most
        "roi_size": [96, 96, 16],
        "strides": [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]],  # after two halvings 2.5 mm, half of 5
        "kernel_sizes": [*[[3, 3, 1]] * 3, *[[3, 3, 3]] * 2],
    }


def test_few_thick_slices_keep_their_voxels_on_a_cpu():
    plan = make_plan(fingerprint({1: (9_000, 0.5)}, shape=(216, 256, 9), spacing=(1.5, 1.5, 10.0)), budget="cpu")
    assert plan.block.spacing == [1.5, 1.5, 10.0]
    assert plan.block.roi_size == [192, 240, 4]
    assert plan.block.stride == (16, 16, 1)
    assert plan.block.augmentation == "strong_in_plane"


@pytest.mark.parametrize(
    ("classes", "joined_share", "size"),
    [
        ({1: (9_000, 0.5), 2: (9_000, 0.6)}, 1.0, [128, 128, 8]),  # one heart, of up to 100 x 90 x 9 voxels
        ({1: (9_000, 0.5), 2: (9_000, 0.6)}, 0.5, [192, 240, 4]),  # two organs
        ({1: (9_000, 0.5)}, 1.0, [128, 128, 8]),
    ],
)
def test_a_cpus_patches_hold_the_object_that_all_classes_make(classes, joined_share, size):
    cases = [
        facts(i, shape=(216, 256, 9), spacing=(1.5, 1.5, 10), classes=classes, joined_share=joined_share, extent=extent)
        for i, extent in enumerate([(100, 50, 7), (60, 90, 9), (40, 40, 9)])
    ]
    print_ = Fingerprint(cases=cases, channels=1, faults=[])
    assert make_plan(print_, budget="cpu").block.roi_size == size
    assert make_plan(print_, budget="cpu").block.spacing == [1.5, 1.5, 10.0]
    on_gpu = make_plan(print_)
    assert on_gpu.block.balanced_crops == 0.0
    assert on_gpu.cpu["roi_size"] == size
    assert on_gpu.cpu.get("balanced_crops", 0.0) == make_plan(print_, budget="cpu").block.balanced_crops
    whole = make_plan(print_, budget="cpu", largest_component=False)
    assert whole.block.roi_size == [192, 240, 4]  # nothing drops what is found elsewhere


def test_unequal_spacings_are_resampled_before_the_patch_is_planned():
    cases = [
        facts(i, shape=(40, 60, 30), spacing=(s, s, 2 * s), classes={1: (9, 0.5)}) for i, s in enumerate((1, 2, 4))
    ]
    print_ = Fingerprint(cases=cases, channels=1, faults=[])
    plan = make_plan(print_)
    assert plan.block.spacing == [2.0, 2.0, 4.0]
    assert median_shape(print_, plan.block.spacing) == [40, 60, 30]
    assert plan.block.roi_size == [48, 64, 32]  # 40 / 16 = 2.5 is rounded up


def test_names_decide_which_classes_there_are():
    plan = make_plan(fingerprint({2: (9, 0.5), 5: (9, 0.5)}), names={0: "air", 5: "five", 2: "two", 3: "three"})
    assert plan.block.labels == {"0": "air", "1": "two", "2": "three", "3": "five"}
    assert plan.block.label_values == {"2": 1, "3": 2, "5": 3}
    assert plan.values == [2, 3, 5]
    assert plan.warnings == ["class 3 (three) is named but occurs in no label file"]


def test_a_value_without_a_name_is_refused_with_its_files():
    with pytest.raises(
        DataError, match=r"values 5 occur in labels/0.nii.gz, .* and 2 more but only 2 are named"
    ) as error:
        make_plan(fingerprint({2: (9, 0.5), 5: (9, 0.5)}, labelled=7), names={2: "two"})
    assert '--labels "2:NAME,5:NAME"' in str(error.value)


def test_few_and_empty_labels_are_pointed_at():
    print_ = fingerprint({1: (9, 0.5)}, labelled=1)
    print_.cases.append(facts("empty", shape=(36, 50, 35), classes={}))
    first, second = make_plan(print_).warnings
    assert first.startswith("labels/empty.nii.gz hold nothing but background")
    assert second.startswith("only 2 labelled case(s)")
    with pytest.raises(DataError, match=r"no label holds anything but 0, .*: draw a class in labels/0\.nii"):
        make_plan(fingerprint({}))


def test_what_is_given_is_taken():
    print_ = fingerprint({1: (9, 0.5)}, shape=(200, 200, 200))
    plan = make_plan(print_, spacing=(2.0, 2.0, 2.0))
    assert (plan.block.spacing, plan.block.roi_size) == ([2.0, 2.0, 2.0], [96, 96, 96])
    plan = make_plan(print_, roi_size=(64, 32, 48))
    assert (plan.block.spacing, plan.block.roi_size) == ([1.0, 1.0, 1.0], [64, 32, 48])
    assert plan.choices["roi_size"].reason == "as given"


def test_on_a_cpu_the_voxels_are_coarser():
    print_ = fingerprint({1: (9, 0.5)}, shape=(200, 200, 200))
    on_gpu, on_cpu = make_plan(print_), make_plan(print_, budget="cpu")
    factor = (96**3 / (64 * 64 * 48)) ** (1 / 3)
    assert on_cpu.block.spacing == pytest.approx([factor] * 3, rel=1e-3)
    assert np.prod(on_cpu.block.roi_size) <= 64 * 64 * 48
    assert on_gpu.cpu == {"spacing": on_cpu.block.spacing, "roi_size": on_cpu.block.roi_size, "flip_axes": []}
    assert on_cpu.cpu == {}
    with pytest.raises(ValueError, match="budget 'tpu' must be one of gpu, cpu"):
        make_plan(print_, budget="tpu")


def test_channels_with_files_of_their_own_become_modalities():
    print_ = Fingerprint(cases=fingerprint({1: (9, 0.5)}).cases, channels=2, faults=[])
    assert make_plan(print_, channel_tokens=("0000", "0001")).block.modalities == ["0000", "0001"]
    assert make_plan(print_).block.modalities is None
    one = fingerprint({1: (9, 0.5)})
    assert make_plan(one, channel_tokens=("0000",)).block.modalities is None


def test_real_crops_of_the_brain(shared_data):
    folder = shared_data / "hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no scans at {folder}")
    block = make_plan(take_fingerprint(find_cases(folder), progress=False)).block
    assert (block.roi_size, block.intensity, block.spacing) == ([32, 48, 32], "zscore", [1.0, 1.0, 1.0])
    assert (block.num_classes, block.label_values, block.balanced_crops) == (3, None, 0.0)
    assert 1 not in block.flip_axes  # one class lies in front of the other
