"""An evaluation from end to end on a model that counts its work."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from tiny import save_tiny_reward, tiny_model, tiny_pipeline
from torch import Tensor

from reneg.config import EvaluateConfig
from reneg.evaluation import evaluate, print_table
from reneg.evaluation.comparison import Comparison, RealPictures
from reneg.evaluation.contenders import load_contenders
from reneg.evaluation.runner import compare
from reneg.evaluation.store import Shards, content_key
from reneg.evaluation.tables import mean_rows
from reneg.evaluation.work import picture_key
from reneg.generation import generate, picture_generators, picture_noise
from reneg.interfaces import Conditioning
from reneg.negative import NegativeEmbedding, tensor_hash
from reneg.report import to_images, to_uint8
from reneg.targets.text_encoder import TextEncoderTarget

PICTURES = 3 * 5 * 2  # negatives, prompts, noises


def figures(results):
    """What must not depend on when and in how many goes it was computed."""
    return {key: results[key] for key in ("overall", "groups", "notes", "negatives")}


def test_results_against_pictures_made_one_by_one(config, make_comparison):
    comparison = make_comparison(config)
    results = compare(comparison, config)
    scores = np.empty((3, 5, 2))
    for n, contender in enumerate(comparison.contenders):
        for p, prompt in enumerate(comparison.prompts):
            for s in range(2):
                noise = picture_noise(comparison.model, picture_generators(config.seed, 2 * p + s, 1))
                negative = contender.negative.of(comparison.model, [prompt])
                images = generate(comparison.model, [prompt], negative, noise, num_inference_steps=3)
                images = to_images(to_uint8(images).numpy())
                scores[n, p, s] = comparison.rewards[0](images, [prompt]).item()
    names = [contender.name for contender in comparison.contenders]
    assert names == ["null", "ugly", "third"]
    for scope, part in (("overall", slice(None)), ("animals", slice(0, 3)), ("things", slice(3, 5))):
        tree = results["overall"] if scope == "overall" else results["groups"][scope]
        for n, name in enumerate(names):
            own = tree["negatives"][name]["rewards"]["bright"]
            assert own["mean"]["mean"] == pytest.approx(scores[n, part].mean(), abs=1e-6)
            assert set(own["win_rate"]) == {"null", "ugly"} - {name}
            for b, base in enumerate(("null", "ugly")):
                if b != n:
                    wins = (scores[n, part] > scores[b, part]) + 0.5 * (scores[n, part] == scores[b, part])
                    assert own["win_rate"][base]["mean"] == pytest.approx(wins.mean())
                    difference = (scores[n, part] - scores[b, part]).mean()
                    assert own["difference"][base]["mean"] == pytest.approx(difference, abs=1e-6)
    assert results["work"]["denoiser_evaluations"] == PICTURES * 3 * 2
    assert results["judges"] == ["world/judge"]


def test_files_tell_everything(config, make_comparison):
    results = compare(make_comparison(config), config)
    folder = config.output_dir
    assert json.loads((folder / "results.json").read_text()) == results
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert len(lines) == PICTURES
    mean = np.mean([line["scores"]["bright"] for line in lines if line["negative"] == "ugly"])
    assert mean == pytest.approx(results["overall"]["negatives"]["ugly"]["rewards"]["bright"]["mean"]["mean"])
    page = (folder / "report.html").read_text()
    assert "http" not in page and "<script" not in page
    assert "<b>bold" not in page and "&lt;b&gt;bold&lt;/b&gt;" in page
    assert page.count("<img") == 5 + 2 * 2 * 5  # every prompt; gains and losses of two negatives
    with Image.open(folder / "before_after.png") as picture:
        assert picture.height == (3 * 8 + 2 * 2) * 16  # three negatives of 8x8 pixels, enlarged
    terminal = io.StringIO()
    print_table(results, Console(file=terminal, width=140))
    assert "third" in terminal.getvalue()


def test_interrupted_anywhere_it_repeats_nothing(config, make_comparison):
    config = replace(config, negatives=["null", "ugly"], num_inference_steps=2)
    whole = make_comparison(config)
    expected = compare(whole, replace(config, output_dir=config.output_dir / "whole"))
    sampled = whole.model.predictions
    batch = 4 * 2  # latents of one denoiser call
    for stop in range(0, sampled, batch):
        folder = config.output_dir / f"stopped-{stop}"
        first, second = make_comparison(config), make_comparison(config)
        first.model.stop_after = stop
        with pytest.raises(KeyboardInterrupt):
            compare(first, replace(config, output_dir=folder))
        results = compare(second, replace(config, output_dir=folder))
        kept = results["work"]["pictures"] - results["work"]["pictures_sampled_in_this_run"]
        assert second.model.predictions == sampled - kept * 2 * 2
        # All that is lost is the batch that was under way.
        assert kept * 2 * 2 > first.model.predictions - 2 * batch
        assert figures(results) == figures(expected)


def test_interrupted_while_scoring_it_repeats_nothing(config, make_comparison):
    expected = compare(make_comparison(config), replace(config, output_dir=config.output_dir / "whole"))
    for stop in range(0, PICTURES, 4):
        folder = config.output_dir / f"stopped-{stop}"
        first, second = make_comparison(config), make_comparison(config)
        first.rewards[1].stop_after = stop
        with pytest.raises(KeyboardInterrupt):
            compare(first, replace(config, output_dir=folder))
        results = compare(second, replace(config, output_dir=folder))
        assert second.model.predictions == 0
        assert [f.scored + s.scored for f, s in zip(first.rewards, second.rewards, strict=True)] == [PICTURES] * 2
        assert figures(results) == figures(expected)


def test_a_new_negative_costs_its_own_pictures_only(config, make_comparison):
    compare(make_comparison(config), config)
    more = replace(config, negatives=["null", "ugly=very ugly", "new=y", "renamed=x"], batch_size=3)
    comparison = make_comparison(more)
    results = compare(comparison, more)
    assert results["work"]["pictures_sampled_in_this_run"] == 10
    assert comparison.model.predictions == 10 * 3 * 2
    assert [reward.scored for reward in comparison.rewards] == [10, 10]


def test_everything_that_determines_pictures_is_in_their_key(config, make_comparison):
    changes = {"num_seeds": 3, "seed": 1, "num_inference_steps": 4, "scheduler": "ddpm"}
    changes |= {"dtype": "fp16", "revision": "v2"}
    settings = [config, *(replace(config, **{name: value}) for name, value in changes.items())]
    comparison = make_comparison(config)
    keys = {picture_key(comparison, comparison.contenders[0], each) for each in settings}
    keys.add(picture_key(comparison, comparison.contenders[1], config))
    keys.add(picture_key(replace(comparison, groups={"a": ["x"]}), comparison.contenders[0], config))
    other = replace(comparison, fingerprints={"counting": "weights 9"})
    keys.add(picture_key(other, comparison.contenders[0], config))
    for change in ({"guidance_scale": 3.0}, {"scales": ["null=4"]}):
        scaled = replace(config, **change)
        keys.add(picture_key(comparison, make_comparison(scaled).contenders[0], scaled))
    assert len(keys) == 12
    same = replace(config, batch_size=1, output_dir=config.output_dir / "x", rewards=["bright"])
    assert picture_key(comparison, comparison.contenders[0], same) in keys


def test_the_pictures_of_earlier_versions_are_found_again(config, make_comparison):
    """What a negative alone determines its pictures by has not changed since evaluations took nothing else."""
    comparison = make_comparison(config)
    content = {
        "format": 1,
        "model": "weights 1",
        "negative": tensor_hash(comparison.model.encode_negative_prompt(["very ugly"]).prompt_embeds),
        "prompts": comparison.prompts,
        "num_seeds": 2,
        "seed": 1234,
        "num_inference_steps": 3,
        "guidance_scale": 7.5,
        "scheduler": "ddim",
        "revision": None,
        "dtype": "fp32",
        "device": "cpu",
    }
    assert picture_key(comparison, comparison.contenders[1], config) == content_key(content)


def write_rows(path, prompts, **fields):
    """A row for each prompt; the fields are functions of it."""
    rows = [{"prompt": prompt, **{name: of(prompt) for name, of in fields.items()}} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_each_prompt_has_of_its_own_is_in_the_key_by_content(config, make_comparison, tmp_path):
    prompts = make_comparison(config).prompts
    files = [
        write_rows(tmp_path / "a.jsonl", prompts, negative=lambda p: p + "!"),
        write_rows(tmp_path / "b.jsonl", prompts, negative=lambda p: p + "?"),
        write_rows(tmp_path / "c.jsonl", prompts, rewritten=lambda p: p + "!"),
        write_rows(tmp_path / "d.jsonl", prompts, rewritten=lambda p: p + "!", negative=lambda p: p + "!"),
        write_rows(tmp_path / "same.jsonl", prompts, negative=lambda p: p + "!", seconds=len),
        write_rows(tmp_path / "unchanged.jsonl", prompts, rewritten=str),
    ]
    comparison = make_comparison(replace(config, negatives=["null", *map(str, files)]))
    keys = {contender.name: picture_key(comparison, contender, config) for contender in comparison.contenders}
    assert keys["same"] == keys["a"] and keys["unchanged"] == keys["null"]
    assert len(set(keys.values())) == 5


def test_the_batch_size_changes_nothing(config, make_comparison):
    results = []
    for batch_size in (1, 3, 16):
        changed = replace(config, batch_size=batch_size, output_dir=config.output_dir / str(batch_size))
        results.append(compare(make_comparison(changed), changed)["overall"])
    for other in results[1:]:
        assert json.dumps(other) == json.dumps(results[0])


def test_one_noise_has_no_diversity(config, make_comparison):
    single = replace(config, num_seeds=1)
    measures = compare(make_comparison(single), single)["overall"]["negatives"]["null"]
    assert set(measures) == {"rewards", "saturation", "clipped"}


def test_real_pictures_stand_beside_and_scoring_above_them_is_noted(config, make_comparison):
    pictures = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    real = RealPictures(["a cat", "a lamp", "a hen"], pictures)
    results = compare(make_comparison(config, real), config)
    assert results["overall"]["real"]["num_pictures"] == 3
    assert results["overall"]["real"]["rewards"]["bright"]["mean"] == pytest.approx((0.05 + 0.06 + 0.05) / 3)
    assert results["groups"]["things"]["real"]["num_pictures"] == 1
    assert len(results["notes"]) == 2 and "reward hacking" in results["notes"][0]
    assert "3 real clean pictures" in (config.output_dir / "report.html").read_text()
    pictures += 255
    config = replace(config, output_dir=config.output_dir / "white")
    assert compare(make_comparison(config, real), config)["notes"] == []


def test_nan_is_refused(config, make_comparison):
    comparison = make_comparison(config)
    comparison.model.decode = lambda latents: latents * float("nan")
    with pytest.raises(ValueError, match="NaN"):
        compare(comparison, config)


def test_the_command_from_folders_and_again(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    save_tiny_reward(tmp_path / "reward")
    (tmp_path / "prompts.txt").write_text("a cat\nred hat\n")
    config = EvaluateConfig(
        model=str(tmp_path / "model"),
        prompts=tmp_path / "prompts.txt",
        negatives=["null", "bad"],
        rewards=[str(tmp_path / "reward")],
        num_inference_steps=2,
        output_dir=tmp_path / "out",
    )
    first, second = evaluate(config), evaluate(config)
    assert (first["work"]["pictures_sampled_in_this_run"], second["work"]["pictures_sampled_in_this_run"]) == (8, 0)
    assert figures(first) == figures(second)
    for rewards in ([], config.rewards * 2):
        with pytest.raises(ValueError, match="--rewards"):
            evaluate(replace(config, rewards=rewards))


class Brightness:
    """The mean pixel, which remembers what it was asked."""

    name = "bright"

    def __init__(self):
        self.prompts: list[str] = []

    def __call__(self, images: Float[Tensor, "b 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        self.prompts.extend(prompts)
        return images.mean((1, 2, 3))


def test_every_kind_is_drawn_as_by_hand_and_scored_by_the_prompt(tmp_path):
    """A text encoder, rewritten prompts, negatives and embeddings of their own, joined, on a real pipeline."""
    prompts, model = ["a cat", "red hat"], tiny_model()
    null = model.null_conditioning().prompt_embeds
    for n, prompt in enumerate(prompts):
        NegativeEmbedding(null + n, null).save(tmp_path / f"{prompt}.safetensors")
    rewritten = write_rows(tmp_path / "better.jsonl", prompts, rewritten=lambda p: p + " now")
    negative = write_rows(tmp_path / "worse.jsonl", prompts, negative=lambda p: p[0], denoiser_evaluations=len)
    own = write_rows(tmp_path / "own.jsonl", prompts, embedding=lambda p: p + ".safetensors")
    target = TextEncoderTarget(model)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(1.2)
    trained = model
    target.artifact({"target": "text_encoder", "denoiser_evaluations": "70"}).save(tmp_path / "text.safetensors")
    model = tiny_model()
    config = EvaluateConfig(
        model="tiny",
        negatives=["null", f"all={tmp_path / 'text.safetensors'} + {rewritten} + {negative}", f"own={own}"],
        scales=["own=3"],
        rewards=["bright"],
        num_inference_steps=2,
        output_dir=tmp_path / "out",
    )
    contenders = load_contenders(config, model, prompts)
    bright = Brightness()
    fingerprints = {"tiny": "weights 1", "bright": "weights 2"}
    comparison = Comparison(model, [bright], contenders, {"a": prompts}, fingerprints)
    results = compare(comparison, config)
    assert set(bright.prompts) == set(prompts)
    noise = picture_noise(model, picture_generators(config.seed, 0, 4))
    doubled = [prompt for prompt in prompts for _ in range(2)]
    steps: dict[str, Any] = {"num_inference_steps": 2}
    shifts = torch.tensor([0.0, 0, 1, 1])[:, None, None]
    worse = trained.encode_negative_prompt([prompt[0] for prompt in doubled])
    by_hand = {
        "null": generate(tiny_model(), doubled, model.null_conditioning(), noise, **steps),
        "all": generate(trained, [prompt + " now" for prompt in doubled], worse, noise, **steps),
        "own": generate(tiny_model(), doubled, Conditioning(null + shifts), noise, guidance_scale=3.0, **steps),
    }
    for contender in contenders:
        key = picture_key(comparison, contender, config)
        pictures = Shards(config.output_dir / "pictures" / key, 4).read(range(4)).astype(int)
        assert abs(pictures - to_uint8(by_hand[contender.name]).numpy().astype(int)).max() <= 1, contender.name
    costs = {negative["name"]: negative["cost"] for negative in results["negatives"]}
    files = ("text.safetensors", "better.jsonl", "worse.jsonl")
    assert costs["all"] == {
        "bytes": sum((tmp_path / name).stat().st_size for name in files),
        "denoiser_evaluations_per_picture": 4,
        "per_prompt": {"denoiser_evaluations": 6.0},
        "learning": {"denoiser_evaluations": 70},
    }
    assert results["negatives"][1]["sha256"] is None  # `reneg push` must not take it for a plain negative
    terminal = io.StringIO()
    print_table(results, Console(file=terminal, width=200))
    page = (config.output_dir / "report.html").read_text()
    for text in ("text_encoder + rewritten prompts + a negative prompt for each prompt", "70 evaluations"):
        assert text in terminal.getvalue() and text in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": "missing.txt"}, "--prompts"),
        ({"model": "unknown"}, "--model"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, change, message):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    change = {name: tmp_path / value if name == "prompts" else value for name, value in change.items()}
    config = EvaluateConfig(**{"prompts": prompts, "output_dir": tmp_path / "out", **change})
    with pytest.raises(ValueError, match=message) as error:
        evaluate(config)
    assert "\n" not in str(error.value)


def test_prompts_beyond_the_limit_are_refused(config, make_comparison):
    comparison = replace(make_comparison(config), groups={"a": ["short", "w " * 8]})
    with pytest.raises(ValueError, match="--prompts: 1 of 2 prompts are beyond the limit of 9 tokens"):
        compare(comparison, config)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    with pytest.raises(OSError, match="--output_dir .* cannot be written"):
        evaluate(EvaluateConfig(prompts=prompts, output_dir=tmp_path / "file" / "out"))


def test_many_contenders_have_a_row_each_in_the_table_of_means(config, make_comparison):
    config = replace(config, negatives=["null", *(f"n{number}={'x' * number}" for number in range(1, 9))])
    results = compare(make_comparison(config), config)
    rows = mean_rows(results, results["overall"])
    assert [row["negative"] for row in rows] == [negative["name"] for negative in results["negatives"]]
    assert set(rows[0]) == {"negative", "bright", "world/judge (judge)", "saturation", "clipped", "diversity"}
