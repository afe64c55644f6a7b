"""Random numbers of a chunk, drawn by groups of its images."""

import torch

from mar.runtime.noise import Noise


def test_groups_draw_what_all_images_draw_together():
    whole, groups = Noise("chunk", 3), Noise("chunk", 3).groups(5, 2)
    rows = [2, 2, 1]
    for name, each, rest in (("permutations", 1, (7,)), ("normal", 3, (4,)), ("uniform", 1, (1,)), ("gumbel", 1, (6,))):
        together = getattr(whole, name)(5 * each, *rest)
        parts = [getattr(group, name)(n * each, *rest) for group, n in zip(groups, rows, strict=True)]
        assert torch.equal(torch.cat(parts), together) and len(together.unique(dim=0)) > 1
    # what is drawn for all after that is what it would be without groups
    assert torch.equal(torch.randn(9, generator=groups[-1].generator), torch.randn(9, generator=whole.generator))


def test_one_group_is_the_stream_itself():
    noise = Noise("chunk")
    assert noise.groups(5, 5) == [noise] and noise.groups(5, 9) == [noise]
    assert [group.generator for group in Noise("chunk", device="meta").groups(4, 2)] == [None, None]
