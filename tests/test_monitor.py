import pytest
import torch
from fakes import PROMPTS, Brightness, GaussianModel, Tone

from reneg.interfaces import Conditioning
from reneg.monitor import BATCH, Monitor, clipped_share, diversity, saturation, sum_up


def make_monitor(num_prompts: int, prompts: list[str], seed: int = 0) -> Monitor:
    return Monitor(
        GaussianModel(),
        Tone(),
        Brightness(),
        prompts,
        num_prompts=num_prompts,
        seed=seed,
        guidance_scale=3.0,
        num_inference_steps=5,
    )


def test_saturation_is_hsv_saturation() -> None:
    grey, red, pale = torch.full((3, 2, 2), 0.5), torch.zeros(3, 2, 2), torch.full((3, 2, 2), 0.5)
    red[0], pale[1] = 0.7, 1.0
    black = torch.zeros(3, 2, 2)
    assert saturation(torch.stack([grey, red, pale, black])).tolist() == [0.0, 1.0, 0.5, 0.0]


def test_clipped_share_counts_channel_values() -> None:
    image = torch.full((1, 3, 2, 2), 0.5)
    image[0, 0, 0] = torch.tensor([0.0, 1.0])
    assert clipped_share(image).tolist() == pytest.approx([2 / 12])


def test_diversity_is_the_distance_within_each_group() -> None:
    images = torch.zeros(6, 3, 2, 2)
    images[1], images[4], images[5] = 0.5, 0.25, 0.25
    assert diversity(images).tolist() == [0.5, 0.0, 0.0]
    # Groups of three: distances 0.5, 0, 0.5, and 0.25, 0.25, 0.
    assert diversity(images, 3).tolist() == pytest.approx([1 / 3, 0.5 / 3])


def test_prompts_are_spread_evenly_and_pictures_batched() -> None:
    monitor = make_monitor(32, [f"prompt {i}" for i in range(100)])
    assert monitor.prompts[:3] == ["prompt 0", "prompt 3", "prompt 6"] and monitor.prompts[-1] == "prompt 96"
    assert [len(batch) for batch in monitor.batches] == [BATCH] * 4
    assert len(monitor.shown_prompts) == 8
    assert make_monitor(32, PROMPTS).prompts == PROMPTS


def test_shares_of_processes_add_up_to_the_whole() -> None:
    monitor = make_monitor(20, [f"prompt {i}" for i in range(20)])
    negative = GaussianModel().encode_prompt([""])
    parts = [monitor.measure(negative, batch) for batch in monitor.batches]
    look = sum_up(parts[1:] + parts[:1])
    assert look.means.keys() == {"reward", "monitor", "saturation", "clipped", "diversity"}
    assert look.means == sum_up(parts).means
    assert torch.allclose(look.images, monitor.show(negative), atol=1e-12)


def test_looks_at_the_same_noises_each_time_and_at_others_for_another_seed() -> None:
    negative = GaussianModel().encode_prompt([""])
    first, again, other = (make_monitor(3, PROMPTS, seed) for seed in (0, 0, 1))
    assert torch.equal(first.show(negative), again.show(negative))
    assert not torch.allclose(first.show(negative), other.show(negative))
    assert not torch.allclose(first.show(negative), first.show(Conditioning(negative.prompt_embeds + 1)))
