"""LAION's heads: the real weights on the real vectors give the known scores, and anything else is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scorers import linear_state, mlp_state, pictures
from tiny import tiny_clip, tiny_vision

from reneg.rewards import find_reward, load_reward
from reneg.rewards.aesthetic import convert_head, make_head
from reneg.rewards.loading import Settings, fill, read_tensors

KNOWN = {  # facts: scores of the shipped vectors, ratings 0 to 9
    "aesthetic": (
        "christophschuhmann+improved-aesthetic-predictor/sac+logos+ava1-l14-linearMSE.pth",
        "vit_l_14_embeddings",
        [1.65548, 2.35927, 3.06982, 3.67245, 4.23801, 4.70102, 5.07305, 5.36536, 5.57666, 5.74676],
    ),
    "aesthetic-v1": (
        "LAION-AI+aesthetic-predictor/sa_0_4_vit_l_14_linear.pth",
        "vit_l_14_embeddings",
        [-2.45791, -0.13786, 1.89511, 3.58493, 5.09973, 6.47010, 7.78699, 9.04800, 10.22641, 11.30443],
    ),
}


def real_head(shared_data: Path, file: str) -> torch.nn.Sequential:
    state = convert_head(read_tensors(shared_data / file, "real"))
    return fill(make_head(state), state, Settings("real"))


@pytest.mark.parametrize("scorer", KNOWN)
def test_real_heads_give_the_known_scores(shared_data: Path, scorer: str, prove):
    file, folder, known = KNOWN[scorer]
    vectors = [np.load(shared_data / "LAION-AI+aesthetic-predictor" / folder / f"rating{i}.npy") for i in range(10)]
    with torch.no_grad():
        scores = real_head(shared_data, file)(torch.from_numpy(np.concatenate(vectors))).squeeze(-1)
    difference = float((scores - torch.tensor(known)).abs().max())
    assert difference < 1e-4
    prove(scorer, "real head on the ten real vectors", "known answers, given to 1e-5", difference)


def test_the_real_linear_head_of_the_smaller_clip_gives_its_known_scores(shared_data: Path):
    """Of ratings 0 and 9; it is no reward here, but of the same layout."""
    folder = shared_data / "LAION-AI+aesthetic-predictor"
    vectors = [np.load(folder / "vit_b_32_embeddings" / f"rating{i}.npy") for i in (0, 9)]
    with torch.no_grad():
        head = real_head(shared_data, "LAION-AI+aesthetic-predictor/sa_0_4_vit_b_32_linear.pth")
        scores = head(torch.from_numpy(np.concatenate(vectors))).squeeze(-1)
    assert scores.tolist() == pytest.approx([-1.46995, 11.00558], abs=1e-4)


def test_the_real_heads_are_the_known_affine_maps(shared_data: Path):
    head = real_head(shared_data, KNOWN["aesthetic"][0]).double()
    with torch.no_grad():
        bias = head(torch.zeros(1, 768, dtype=torch.float64))
        weight = head(torch.eye(768, dtype=torch.float64)).squeeze(-1) - bias.squeeze()
    assert float(bias) == pytest.approx(5.236646, abs=1e-5)
    assert float(weight.norm()) == pytest.approx(17.995625, abs=1e-4)
    assert weight[:3].tolist() == pytest.approx([-0.691593, -0.556994, -0.321169], abs=1e-5)
    (linear,) = real_head(shared_data, KNOWN["aesthetic-v1"][0])
    assert isinstance(linear, torch.nn.Linear)
    assert float(linear.weight.detach().norm()) == pytest.approx(28.444397, abs=1e-5)
    assert linear.bias.detach().item() == pytest.approx(3.529372, abs=1e-6)


def test_the_real_mlp_with_activations_is_refused(shared_data: Path):
    file = shared_data / "christophschuhmann+improved-aesthetic-predictor" / "ava+logos-l14-reluMSE.pth"
    with pytest.raises(ValueError, match="without activations; unknown or missing: layers.11.bias"):
        convert_head(read_tensors(file, "relu"))


@pytest.mark.parametrize(
    ("file", "name", "state"),
    [
        ("sac+logos+ava1-l14-linearMSE.pth", "aesthetic", mlp_state(12, 10, 8, 6, 4)),
        ("sa_0_4_vit_l_14_linear.pth", "aesthetic-v1", linear_state(12)),
    ],
)
def test_a_folder_with_backbone_and_head_loads(tmp_path: Path, file: str, name: str, state: dict):
    tiny_vision(12).save_pretrained(tmp_path)
    torch.save(state, tmp_path / file)
    images = pictures(2).float()
    for given in (tmp_path, tmp_path / file):
        reward = load_reward(str(given))
        assert reward.name == name == find_reward(str(given))[0]
        scores = reward(images, ["", ""])
        vectors = reward.model(pixel_values=reward.preprocess(images)).image_embeds  # type: ignore[attr-defined]
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
        for layer in range(len(state) // 2):
            weights, biases = [v for v in state.values() if v.ndim == 2], [v for v in state.values() if v.ndim == 1]
            vectors = vectors @ weights[layer].T + biases[layer]
        torch.testing.assert_close(scores, vectors[:, 0])


def test_the_backbone_is_the_picture_tower_of_a_whole_clip(tmp_path: Path):
    """As openai/clip-vit-large-patch14 is on the hub."""
    clip, images = tiny_clip(1, 8), pictures(2).float()
    clip.save_pretrained(tmp_path)
    torch.save(linear_state(8), tmp_path / "sa_0_4_vit_l_14_linear.pth")
    reward = load_reward(str(tmp_path / "sa_0_4_vit_l_14_linear.pth"))
    pixels = reward.preprocess(images)  # type: ignore[attr-defined]
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(clip.get_image_features(pixel_values=pixels).pooler_output)  # type: ignore
    weights = linear_state(8)
    expected = vectors @ weights["weight"][0] + weights["bias"]
    torch.testing.assert_close(reward(images, ["", ""]), expected)


def test_bad_heads_are_refused_in_one_line(tmp_path: Path):
    file = tmp_path / "sa_0_4_vit_l_14_linear.pth"
    tiny_vision(12).save_pretrained(tmp_path)
    bad = {
        "it belongs to CLIP ViT-L/14": linear_state(9),
        "is no MLP of five linear layers": {"weight": torch.ones(1, 12)},
        "unknown or missing: extra": mlp_state(12, 10, 8, 6, 4) | {"extra": torch.ones(1)},
        "not a state dict": torch.ones(3),
        "that is not a state dict": {"weight": 3, "bias": 4},
        "unpack": {"weight": torch.ones(3), "bias": torch.ones(1)},
        "without activations; unknown or missing: 1": {"1": torch.ones(1)},
        "cannot be read as tensors": {"weight": Path("x")},
    }
    for message, content in bad.items():
        torch.save(content, file)
        with pytest.raises(ValueError, match=message) as error:
            load_reward(str(file))
        assert "\n" not in str(error.value) and "aesthetic-v1" in str(error.value)
    with pytest.raises(ValueError, match="'aesthetic-v1' is on no hub; give the path of sa_0_4_vit_l_14_linear.pth"):
        load_reward("aesthetic-v1")
