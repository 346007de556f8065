"""Saturation and diversity against answers by hand."""

import pytest
import torch

from reneg.measures import diversity, saturation


def test_saturation_of_grey_colour_and_half():
    grey = torch.full((3, 2, 2), 0.3)
    red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 2, 2)
    half = torch.cat([grey[:, :1], red[:, 1:]], dim=1)
    assert saturation(torch.stack([grey, red, half])).tolist() == pytest.approx([0.0, 1.0, 0.5])


def test_diversity_is_the_mean_distance_of_pairs():
    shades = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.2, 0.2]]).view(2, 3, 1, 1, 1).expand(2, 3, 3, 4, 4)
    assert diversity(shades).tolist() == pytest.approx([(0.5 + 1.0 + 0.5) / 3, 0.0])
    assert diversity(shades[:, :1]).tolist() == [0.0, 0.0]
