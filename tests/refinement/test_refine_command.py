"""`reneg refine`: resumed, killed, shared by processes, refused; the Python function; `generate --refine`."""

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from fakes import Tone
from PIL import Image
from short_runs import save_tiny_world
from tiny import tiny_clip_reward, tiny_model

import reneg.refinement.run as run
from reneg import NegativeEmbedding, refine
from reneg.cli import main
from reneg.config import GenerateConfig
from reneg.metrics import Row, read_rows
from reneg.randomness import make_generator
from reneg.refinement.config import RefineConfig
from reneg.refinement.run import generate_refined, run_refine, settings_of_generate
from reneg.targets import NegativeEmbeddingTarget

PROMPTS = ["a cat", "the sea", "rain"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A tiny model, two rewards and a global embedding as files; the settings that name them."""
    folder = tmp_path_factory.mktemp("world")
    settings = save_tiny_world(folder)
    target = NegativeEmbeddingTarget(tiny_model())
    embeds = target.negative_prompt_embeds
    with torch.no_grad():
        embeds.add_(torch.randn(embeds.shape, generator=make_generator(0, "test", 0)), alpha=0.1)
    target.artifact({"base_model": "tiny"}).save(folder / "global.safetensors")
    del settings["prompts"]
    return settings | {"negative": str(folder / "global.safetensors")}


def quick(world: dict, output_dir: Path, **changes) -> RefineConfig:
    base = RefineConfig(
        **world,
        output_dir=output_dir,
        prompt=PROMPTS,
        num_inference_steps=3,
        grad_step_range=(1, 2),
        gradient_steps=2,
        max_refine_steps=2,
        refine_learning_rate=0.05,
        batch_size=4,
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def finished(world: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    run_refine(quick(world, folder))
    return folder


def close(left: Row, right: Row) -> bool:
    """Batches may differ, and with them the last bits of float32 sums."""
    texts = [{name: value for name, value in row.items() if isinstance(value, str)} for row in (left, right)]
    numbers = [{name: value for name, value in row.items() if name not in texts[0]} for row in (left, right)]
    return texts[0] == texts[1] and numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-5)


def test_the_folder_explains_itself(world: dict, finished: Path):
    rows = read_rows(finished / "index.jsonl")
    assert [row["prompt"] for row in rows] == PROMPTS
    for row in rows:
        negative = NegativeEmbedding.load(finished / str(row["embedding"]))
        assert json.loads(negative.metadata["refined_prompt"]) == row["prompt"]
        assert negative.metadata["base_model"] == world["model"]
        assert float(row["reward"]) >= float(row["reward_global"])
        assert float(row["monitor"]) >= float(row["monitor_global"])
        judged = 2 * 3 * 2 * (int(row["steps"]) + 1)
        assert row["denoiser_evaluations"] == 2 * 3 * int(row["steps"]) + judged
        assert row["backward_passes"] == 2 * int(row["steps"])
    with Image.open(finished / "before_after.png") as picture:
        assert picture.height > 2 * 16
    page = (finished / "report.html").read_text()
    assert "data:image/png" in page and "a cat" in page


def test_the_same_command_computes_nothing_twice_and_more_prompts_only_their_own(
    world: dict, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    refined = []
    original = run.refine_prompts

    def counted(model, start, prompts, *rest):
        refined.extend(prompts)
        return original(model, start, prompts, *rest)

    monkeypatch.setattr(run, "refine_prompts", counted)
    folder = tmp_path / "out"
    run_refine(quick(world, folder, prompt=PROMPTS[1:2]))
    run_refine(quick(world, folder, prompt=PROMPTS, batch_size=8))
    assert refined == [PROMPTS[1], PROMPTS[0], PROMPTS[2]]
    run_refine(quick(world, folder, prompt=PROMPTS[::-1]))
    assert len(refined) == 3
    rows = read_rows(folder / "index.jsonl")[::-1]
    for row, whole in zip(rows, read_rows(finished / "index.jsonl"), strict=True):
        assert close(row, whole)
        assert row["embedding"] == whole["embedding"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_refine_steps": 3}, "max_refine_steps 2, and not 3"),
        ({"negative": "null"}, "negative_sha256"),
        ({"seed": 1}, "seed 0, and not 1"),
    ],
)
def test_a_folder_of_other_settings_is_refused_in_one_line(world: dict, finished: Path, changes: dict, named: str):
    with pytest.raises(ValueError, match=f"--output_dir .* was made with {named}"):
        run_refine(quick(world, finished, **changes))


def as_process(rank: int, port: int, config: RefineConfig) -> None:
    """One of two processes, as accelerate's launchers start them."""
    torch.set_num_threads(1)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(address | ranks | {"OMP_NUM_THREADS": "1"})
    run_refine(config)
    PartialState().destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_the_prompts_and_agree_with_one(world: dict, finished: Path, tmp_path: Path):
    context = multiprocessing.get_context("forkserver")
    port = 20000 + os.getpid() % 20000
    config = quick(world, tmp_path / "out")
    processes = [context.Process(target=as_process, args=(rank, port, config)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
        assert process.exitcode == 0
    for row, whole in zip(
        read_rows(tmp_path / "out" / "index.jsonl"), read_rows(finished / "index.jsonl"), strict=True
    ):
        assert close(row, whole)


def alone(config: RefineConfig) -> None:
    torch.set_num_threads(1)
    run_refine(config)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_what_it_has(world: dict, finished: Path, tmp_path: Path):
    """kill -9 as soon as the first prompt is finished, from outside."""
    context = multiprocessing.get_context("forkserver")
    config = quick(world, tmp_path / "out", batch_size=1)
    process = context.Process(target=alone, args=(config,))
    process.start()
    embeddings = tmp_path / "out" / "embeddings"
    while process.is_alive() and not list(embeddings.glob("*.safetensors")):
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    kept = {path.name: path.stat().st_mtime_ns for path in embeddings.glob("*.safetensors")}
    assert 0 < len(kept) < len(PROMPTS)
    assert not (tmp_path / "out" / "index.jsonl").exists()
    run_refine(dataclasses.replace(config, batch_size=4))
    assert all((embeddings / name).stat().st_mtime_ns == made for name, made in kept.items())
    rows = read_rows(tmp_path / "out" / "index.jsonl")
    assert all(close(row, whole) for row, whole in zip(rows, read_rows(finished / "index.jsonl"), strict=True))


def test_the_python_function_gives_what_the_command_gives(world: dict, finished: Path):
    model, reward, monitor = tiny_model(), tiny_clip_reward(seed=1), tiny_clip_reward(seed=2)
    negative = NegativeEmbedding.load(world["negative"])
    config = quick(world, Path("unset"))
    found = refine(model, negative, [PROMPTS[0], PROMPTS[0]], reward=reward, monitor=monitor, config=config)
    row = read_rows(finished / "index.jsonl")[0]
    saved = NegativeEmbedding.load(finished / str(row["embedding"]))
    for one in found:
        assert one.metadata["base_model"] == negative.metadata["base_model"] == "tiny"
        torch.testing.assert_close(one.negative_prompt_embeds, saved.negative_prompt_embeds, rtol=0, atol=1e-4)
    found = refine(model, None, ["rain"], reward=Tone(), config=dataclasses.replace(config, monitor=None))
    assert found[0].negative_prompt_embeds.shape == negative.negative_prompt_embeds.shape
    assert (found[0].metadata["reward"], found[0].metadata["monitor"]) == ("tone", "None")  # not the settings'
    assert found[0].metadata["base_model"] == model.name and "license" not in found[0].metadata


def test_generate_refines_first_and_draws_with_each_prompts_own(world: dict, finished: Path, tmp_path: Path):
    settings = tmp_path / "refine.yaml"
    names = ("reward", "monitor", "gradient_steps", "max_refine_steps", "refine_learning_rate")
    config = quick(world, Path("unset"))
    lines = [f"{name}: {json.dumps(getattr(config, name))}" for name in names]
    settings.write_text("\n".join([*lines, "grad_step_range: [1, 2]"]))
    shared = {"model": world["model"], "negative": world["negative"], "num_inference_steps": 3, "prompt": PROMPTS}
    arguments = GenerateConfig(
        **shared, output_dir=tmp_path / "own", refine=True, refine_config=settings, batch_size=4
    )
    generate_refined(arguments)
    rows = read_rows(tmp_path / "own" / "refined" / "index.jsonl")
    assert all(close(row, whole) for row, whole in zip(rows, read_rows(finished / "index.jsonl"), strict=True))
    alone = [*("generate", "--model", world["model"], "--num_inference_steps", "3"), "--prompt", PROMPTS[0]]
    file = str(finished / str(rows[0]["embedding"]))
    assert main([*alone, "--negative", file, "--output_dir", str(tmp_path / "one")]) == 0
    drawn = Image.open(tmp_path / "own" / "00000.png"), Image.open(tmp_path / "one" / "00000.png")
    left, right = (torch.tensor(list(image.tobytes())).double() for image in drawn)
    assert float((left - right).abs().max()) <= 1


def test_generate_takes_the_preset_below_the_file_and_its_own_flags_above(tmp_path: Path):
    (tmp_path / "refine.yaml").write_text("patience: 5\n")
    config = GenerateConfig(prompt=["a"], refine=True, refine_config=tmp_path / "refine.yaml", guidance_scale=5.0)
    chosen = settings_of_generate(config)
    assert (chosen.patience, chosen.guidance_scale, chosen.grad_step_range) == (5, 5.0, (27, 29))
    assert chosen.output_dir == Path("runs/generate/refined")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--negative", "ugly"], "--negative 'ugly'"),
        (["--negative", "no/such.safetensors"], "no negative embedding at no/such.safetensors"),
        (["--reward", "none/such/thing"], "reward 'none/such/thing'"),
        (["--prompt", "a", "--prompts", "b.txt"], "either --prompt TEXT or --prompts FILE"),
        (["--prompt", " "], "--prompt: got an empty text"),
        (["--prompt", "a" * 60], "--prompt: 1 of 1 prompts are beyond the limit"),
        (["--patience", "0"], "--patience 0"),
        (["--refine_learning_rate", "0"], "--refine_learning_rate 0"),
        (["--grad_step_range", "[20,30]"], "--grad_step_range [20, 30]"),
        (["--gradient_steps", "11"], "--gradient_steps 11"),
        (["--scheduler", "ddpm", "--trajectory_steps", "3"], "--trajectory_steps"),
        (["--device", "nowhere"], "--device 'nowhere'"),
    ],
)
def test_bad_input_gives_one_line(
    arguments: list[str], named: str, world: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    common = ["--model", world["model"], "--reward", world["reward"], "--output_dir", str(tmp_path / "out")]
    common += [] if "--prompt" in arguments else ["--prompt", "a"]
    assert main(["refine", *common, "--monitor", "null", *arguments]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reneg: error: ")]
    assert len(told) == 1 and named in told[0]
    assert not list((tmp_path / "out").glob("*.json*"))


def test_refine_config_that_says_what_refine_does_not_take_is_refused(tmp_path: Path):
    (tmp_path / "refine.yaml").write_text("colour: red\n")
    arguments = ["generate", "--prompt", "a", "--refine", "--refine_config", str(tmp_path / "refine.yaml")]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 2
    with pytest.raises(ValueError, match="--refine_config: goes with --refine"):
        GenerateConfig(prompt=["a"], refine_config=tmp_path / "refine.yaml")
