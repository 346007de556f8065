"""Which scores are taken for the same: by the scorer's weights, and the path that pictures take into it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scorers import open_clip_state, save_hps
from tiny import save_tiny_reward, tiny_pipeline

from reneg.config import EvaluateConfig
from reneg.evaluation.runner import evaluate, reward_fingerprint
from reneg.evaluation.store import fingerprint
from reneg.rewards import load_reward


def scaled_hps(folder: Path, file: str, scale: float) -> Path:
    """Another scorer of the same layout."""
    return save_hps(folder, file, {k: v * scale if k == "visual.proj" else v for k, v in open_clip_state().items()})


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ("hpsv2.1", "xswu/HPSv2/HPS_v2.1_compressed.pt"),
        ("hpsv2.0", "xswu/HPSv2/HPS_v2_compressed.pt"),
        ("imagereward", "zai-org/ImageReward/ImageReward.pt"),
        ("pickscore", "yuvalkirstain/PickScore_v1"),
        ("someone/a-clip", "someone/a-clip"),
    ],
)
def test_on_the_hub_it_is_the_place(reward: str, expected: str):
    assert reward_fingerprint(reward, published=False) == expected
    assert reward_fingerprint(reward, published=True) == f"{expected} published"


def test_in_files_it_is_the_content(tmp_path: Path):
    new, old = save_hps(tmp_path / "a", "HPS_v2.1_compressed.pt"), save_hps(tmp_path / "b", "HPS_v2_compressed.pt")
    assert reward_fingerprint(str(new), published=False) == fingerprint(new)
    assert reward_fingerprint(str(new.parent), published=False) == fingerprint(new)  # the folder that holds it
    before = reward_fingerprint(str(old), published=False)
    scaled_hps(tmp_path / "b", "HPS_v2_compressed.pt", 2.0)
    assert reward_fingerprint(str(old), published=False) != before
    folder = save_tiny_reward(tmp_path / "clip")
    before = reward_fingerprint(str(folder), published=False)
    save_tiny_reward(folder, seed=9)
    assert reward_fingerprint(str(folder), published=False) != before


def scores_of(config: EvaluateConfig) -> list[dict[str, float]]:
    return [json.loads(line)["scores"] for line in (config.output_dir / "scores.jsonl").read_text().splitlines()]


def test_published_scores_are_others_of_the_same_pictures(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a cat\nred hat\n")
    rewards = [str(save_tiny_reward(tmp_path / "clip", size=12)), str(save_hps(tmp_path, "HPS_v2.1_compressed.pt"))]
    config = EvaluateConfig(
        model=str(tmp_path / "model"),
        prompts=tmp_path / "prompts.txt",
        negatives=["null", "bad"],
        rewards=rewards,
        num_inference_steps=2,
        num_seeds=1,
        output_dir=tmp_path / "out",
    )
    evaluate(config)
    plain = scores_of(config)
    assert set(plain[0]) == {rewards[0], "hpsv2.1"}  # the version is in every report
    results = evaluate(replace(config, published=True))
    published = scores_of(config)
    assert results["work"]["pictures_sampled_in_this_run"] == 0
    for one, other in zip(plain, published, strict=True):
        for name in one:
            assert 0 < abs(one[name] - other[name]) < 2
    # Each path's scores are kept apart, and found again.
    evaluate(config)
    assert scores_of(config) == plain
    assert load_reward(rewards[1]).name == "hpsv2.1"
