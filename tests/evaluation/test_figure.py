import matplotlib.image
import numpy as np
import pytest
from matplotlib import pyplot

from aps_components.evaluation.figure import Plane, _Layout, _planes, save_overview

D, H, W = 17, 23, 11


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    truth = np.zeros((D, H, W), dtype=np.uint8)
    truth[3:9, 5:14, 2:8] = 1
    truth[9:13, 5:14, 2:8] = 2
    return {
        "image": rng.standard_normal((D, H, W)).astype(np.float32),
        "prediction": np.roll(truth, 1, 0),
        "truth": truth,
        "epistemic": rng.random((D, H, W)),
        "aleatoric": rng.random((D, H, W)),
        "points": [(1, 5, 8, 4), (2, 10, 9, 5), (1, 16, 22, 10)],
        "spacing": (0.7, 1.1, 3.0),
        "title": "case",
    }


def picture(path):
    pixels = matplotlib.image.imread(path)[..., :3]
    assert pixels.std() > 0.05
    return pixels


def width(pixels):
    return pixels.shape[1]


def test_all_panels_are_drawn(case, tmp_path):
    path = save_overview(tmp_path / "new" / "overview.png", **case)
    assert path == tmp_path / "new" / "overview.png"
    colours = picture(path).reshape(-1, 3)
    for colour in ((214, 39, 40), (31, 119, 180)):  # the two classes
        assert (np.abs(colours * 255 - colour).max(axis=1) < 3).sum() > 50


@pytest.mark.parametrize("missing", ["truth", "epistemic", "aleatoric", "points"])
def test_a_missing_part_has_no_panel(case, tmp_path, missing):
    full = picture(save_overview(tmp_path / "full.png", **case))
    without = picture(save_overview(tmp_path / "without.png", **(case | {missing: None})))
    assert width(without) < width(full)


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": None},
        {"points": []},
        {"prediction": np.zeros((D, H, W), dtype=np.uint8)},
        {"prediction": np.zeros((D, H, W), dtype=np.uint8), "truth": None, "points": None},
        {"prediction": np.ones((D, H, W), dtype=np.uint8)},
        {"truth": np.zeros((D, H, W), dtype=np.uint8)},
        {"epistemic": np.zeros((D, H, W))},
        {"image": np.zeros((D, H, W), dtype=np.float32)},
        {"class_names": {1: "left atrium"}, "epistemic_unit": "variance"},
        {"points": [(0, 5, 8, 4)]},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_odd_cases_are_drawn_without_warnings(case, tmp_path, recwarn, changes):
    picture(save_overview(tmp_path / "overview.png", **(case | changes)))
    assert [str(warning.message) for warning in recwarn] == []


def test_planes_cut_where_the_foreground_is_largest():
    label_map = np.zeros((D, H, W), dtype=np.uint8)
    label_map[4, 2:9, 3:6] = 1
    label_map[3:6, 7, 3:6] = 1
    label_map[3:6, 2:9, 5] = 1
    planes = _planes(label_map, (0.7, 1.1, 3.0))
    assert {plane.axis: plane.index for plane in planes} == {0: 4, 1: 7, 2: 5}
    assert {plane.axis: plane.spacing for plane in planes} == {0: (1.1, 3.0), 1: (0.7, 3.0), 2: (0.7, 1.1)}


def test_a_plane_runs_right_along_its_first_axis_and_up_along_its_second():
    volume = np.arange(D * H * W).reshape(D, H, W)
    plane = Plane(1, index=6, spacing=(1.0, 1.0), size=(D, W))
    assert plane.cut(volume)[4, 9] == volume[9, 6, 4]
    assert plane.name.startswith("H = 6")


def test_panels_have_the_proportions_of_the_body():
    planes = _planes(np.zeros((D, H, W)), (0.7, 1.1, 3.0))
    layout = _Layout(planes, [], titled=True, entries=3)
    for (wide, high), plane in zip(layout.panels, planes, strict=True):
        assert wide / high == pytest.approx(plane.extent[0] / plane.extent[1])


def test_other_shapes_are_refused_by_name(case, tmp_path):
    case["epistemic"] = case["epistemic"][1:]
    with pytest.raises(ValueError, match=r"epistemic \(16, 23, 11\)"):
        save_overview(tmp_path / "overview.png", **case)


def test_no_figure_stays_open_in_pyplot(case, tmp_path):
    save_overview(tmp_path / "overview.png", **case)
    assert pyplot.get_fignums() == []
