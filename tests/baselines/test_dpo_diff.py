"""DPO-Diff from end to end: a better reward on its noises, the same for any batch size, resumed, and counted."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from fakes import Brightness, GaussianModel
from tiny import save_tiny_reward, tiny_pipeline

import reneg.baselines.dpo_diff as dpo_diff
from reneg.baselines.config import DpoDiffConfig
from reneg.baselines.dpo_diff import mean_rewards, run_dpo_diff, search_negative
from reneg.baselines.search_space import SearchSpace
from reneg.generation import generate
from reneg.randomness import derive_seed, make_generator

SPACE = SearchSpace([["", *(f"{letter}{number}" for number in range(8))] for letter in "abcde"])
CONFIG = DpoDiffConfig(
    model="gaussian", num_inference_steps=5, num_candidates=60, population=15, num_noises=3, batch_size=7
)


def test_the_search_raises_the_reward_above_the_null_texts_and_above_nearly_all_random_choices():
    model = GaussianModel()
    row = search_negative(model, Brightness(), "a cat", SPACE, CONFIG)
    assert float(row["reward"]) > float(row["null_reward"])
    random = [
        SPACE.text(tuple(torch.randint(9, (5,), generator=make_generator(1, "test", n)).tolist())) for n in range(60)
    ]
    seed = derive_seed(CONFIG.seed, "dpo-diff a cat", 0)
    others = mean_rewards(model, Brightness(), "a cat", random, CONFIG, seed)
    assert float(row["reward"]) > sorted(others)[56]
    again = mean_rewards(model, Brightness(), "a cat", [str(row["negative"]), ""], CONFIG, seed)
    assert again == pytest.approx([row["reward"], row["null_reward"]], abs=1e-12)


def test_rewards_are_means_over_the_same_noises_as_pictures_made_one_by_one():
    model = GaussianModel()
    found = mean_rewards(model, Brightness(), "a dog", ["x", "y"], CONFIG, 5)
    for negative, reward in zip(["x", "y"], found, strict=True):
        single = []
        for number in range(3):
            noise = torch.randn(model.latent_shape, generator=make_generator(5, "picture", number))[None].double()
            conditioning = model.encode_negative_prompt([negative])
            images = generate(model, ["a dog"], conditioning, noise, num_inference_steps=5)
            single.append(float(images.mean()))
        assert reward == pytest.approx(sum(single) / 3, abs=1e-7)


def test_the_batch_size_changes_nothing_and_the_denoiser_evaluations_are_counted():
    rows = []
    for batch_size in (1, 4, 64):
        model, config = GaussianModel(), dataclasses.replace(CONFIG, batch_size=batch_size)
        rows.append(search_negative(model, Brightness(), "rain", SPACE, config))
        assert model.calls == rows[-1]["denoiser_evaluations"] == 2 * 5 * 3 * 60
    assert rows[0]["negative"] == rows[1]["negative"] == rows[2]["negative"] != ""
    assert rows[0]["reward"] == pytest.approx(rows[2]["reward"], abs=1e-12)
    other = search_negative(GaussianModel(), Brightness(), "rain", SPACE, dataclasses.replace(CONFIG, seed=1))
    assert other["reward"] != pytest.approx(rows[0]["reward"], abs=1e-12)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipeline().save_pretrained(folder / "model")
    save_tiny_reward(folder / "reward")
    (folder / "prompts.txt").write_text("a b\nc d\ne f\na b\n")
    space = {"antonym": {"a": ["x", "y"], "b": ["z"]}}
    (folder / "antonyms.json").write_text(json.dumps(dict.fromkeys(["a b", "c d", "e f"], space)))
    return folder


def config(tiny: Path, output_dir: Path, **changes) -> DpoDiffConfig:
    quick = DpoDiffConfig(
        model=str(tiny / "model"),
        prompts=tiny / "prompts.txt",
        antonyms=tiny / "antonyms.json",
        reward=str(tiny / "reward"),
        library_slots=0,
        num_inference_steps=2,
        num_candidates=3,
        population=2,
        num_noises=1,
        gradient_iterations=2,
        shortcut_step_range=(0, 1),
        output_dir=output_dir,
    )
    return dataclasses.replace(quick, **changes)


@pytest.mark.parametrize("search", ["evolution", "gradient", "hybrid"])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_file(
    search: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = run_dpo_diff(config(tiny, tmp_path / "whole", search=search))
    rows = [json.loads(line) for line in whole.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a b", "c d", "e f"]
    assert all(row["reward"] >= row["null_reward"] for row in rows)
    learning = 0 if search == "evolution" else 2 * (1 + 2)
    assert {row["denoiser_evaluations"] for row in rows} == {learning + 2 * 2 * 3}
    assert {row["backward_passes"] for row in rows} == {0 if search == "evolution" else 2}

    searched = []

    def once(model, reward, prompt, space, config):
        if searched:
            raise KeyboardInterrupt
        searched.append(prompt)
        return search_negative(model, reward, prompt, space, config)

    parts = config(tiny, tmp_path / "parts", search=search)
    with monkeypatch.context() as patch:
        patch.setattr(dpo_diff, "search_negative", once)
        with pytest.raises(KeyboardInterrupt):
            run_dpo_diff(parts)
    assert searched == ["a b"]
    with (tmp_path / "parts" / "negatives.jsonl").open("a") as file:
        file.write('{"prompt": "c d", "neg')  # cut short by a kill
    run_dpo_diff(parts)
    assert (tmp_path / "parts" / "negatives.jsonl").read_text() == whole.read_text()


def test_a_folder_of_other_settings_is_refused_by_name(tiny: Path, tmp_path: Path):
    run_dpo_diff(config(tiny, tmp_path, max_prompts=1))
    run_dpo_diff(config(tiny, tmp_path, max_prompts=2, batch_size=1))  # these may change
    assert len((tmp_path / "negatives.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="--output_dir .* was made with num_candidates 3, and not 4"):
        run_dpo_diff(config(tiny, tmp_path, num_candidates=4))


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"num_candidates": 0}, "--num_candidates 0"),
        ({"mutation_rate": 0.0}, "--mutation_rate 0.0"),
        ({"library_slots": -1}, "--library_slots -1"),
        ({"search": "hybrid", "shortcut_step_range": (5, 30)}, r"--shortcut_step_range \[5, 30\]: must lie in 0 … 29"),
        ({"shortcut_learning_rate": 0.0}, "--shortcut_learning_rate 0.0"),
        ({"max_prompts": 0}, "--max_prompts 0"),
        ({"batch_size": 0}, "--batch_size 0"),
    ],
)
def test_bad_settings_are_refused_by_their_flag(changes: dict, flag: str):
    with pytest.raises(ValueError, match=flag):
        DpoDiffConfig(**changes)
