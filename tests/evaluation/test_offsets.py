import torch

from aps_components.evaluation.offsets import of_kept_pieces


def test_what_an_answer_does_not_show_has_no_volume():
    """Of class 1 the larger piece counts, of class 2 all of it: the smaller piece is background for certain."""
    label = torch.zeros(17, 24, 40, dtype=torch.long)
    label[2:9, 3:9, 5:12], label[12:14, 20:22, 30:33], label[9:12, 3:9, 5:12] = 1, 1, 2
    scores = (torch.nn.functional.one_hot(label, 3).movedim(-1, 0)[None] * 0.9 + 0.1 / 3).log()
    kept = of_kept_pieces(scores, True)
    assert torch.bincount(kept.argmax(dim=1).flatten()).tolist() == [label.numel() - 294 - 126, 294, 126]
    assert (kept[0, 1:, 12:14, 20:22, 30:33] < -13).all()
    assert torch.equal(kept[..., :20], scores[..., :20])
