import pytest
import torch

from aps_components.data.copy_paste import draw_box_mask, paste

SIZE = (24, 33, 17)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("size", "share", "box"),
    [
        (SIZE, 2 / 3, (16, 22, 11)),  # 11.33 of 17
        (SIZE, 0.5, (12, 16, 8)),  # 16.5 and 8.5 go to the even number
        (SIZE, 0.9, (22, 30, 15)),
        ((112, 112, 80), 2 / 3, (75, 75, 53)),
        ((2, 3, 5), 0.1, (1, 1, 1)),  # never nothing
    ],
)
def test_box_covers_its_share_of_each_axis(size, share, box):
    for _ in range(20):
        mask = draw_box_mask(size, share=share)
        assert mask.shape == (1, 1, *size)
        assert mask.dtype == torch.bool
        inside = mask[0, 0].nonzero()
        low, high = inside.amin(0), inside.amax(0)
        assert tuple((high - low + 1).tolist()) == box  # it fits: none is cut at a border
        assert len(inside) == box[0] * box[1] * box[2]  # and is solid
        assert not mask.all()


def test_every_place_that_fits_can_come_and_the_axes_are_drawn_apart():
    starts = torch.stack([draw_box_mask((4, 5, 6), share=0.5)[0, 0].nonzero()[0] for _ in range(400)])
    for axis, places in enumerate((3, 4, 4)):  # boxes of 2, 2 and 3
        assert starts[:, axis].unique().tolist() == list(range(places))
    assert len(starts.unique(dim=0)) == 3 * 4 * 4


def test_default_share_is_the_papers():
    assert draw_box_mask((30, 60, 90)).sum() == 20 * 40 * 60


def test_a_generator_repeats_itself_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    masks = [draw_box_mask(SIZE, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_pasting_both_ways_parts_the_two_volumes():
    first, second = torch.randn(2, 3, *SIZE), torch.randn(2, 3, *SIZE)
    mask = draw_box_mask(SIZE)
    one, other = paste(first, second, mask), paste(second, first, mask)
    everywhere = mask.expand_as(first)
    assert torch.equal(one[everywhere], first[everywhere])
    assert torch.equal(one[~everywhere], second[~everywhere])
    assert torch.equal(one + other, first + second)
    assert torch.equal(paste(one, other, mask), first)  # and back again
    assert torch.equal(paste(other, one, mask), second)


def test_labels_keep_their_type_and_masks_broadcast():
    label = torch.randint(0, 5, (2, 1, *SIZE), dtype=torch.uint8)
    mixed = paste(label, torch.zeros_like(label), draw_box_mask(SIZE))
    assert mixed.dtype == torch.uint8
    whose = paste(torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool), draw_box_mask(SIZE))
    assert whose.shape == (1, 1, *SIZE)
    assert whose.sum() == 16 * 22 * 11


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5])
def test_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=f"share {share} of the copy-paste box"):
        draw_box_mask(SIZE, share=share)
