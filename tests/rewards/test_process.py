"""Scorers in a process of their own: their answers are the scores; every failure is one line and leaves no process."""

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scorers import pictures
from short_runs import quick, save_tiny_world
from tiny import save_tiny_reward, tiny_pipeline

from reneg.cli import main
from reneg.config import EvaluateConfig
from reneg.evaluation.runner import evaluate, reward_fingerprint
from reneg.learning import learn
from reneg.report import to_uint8
from reneg.rewards import load_mixture, load_reward
from reneg.rewards.process import ProcessReward, read_process

EXAMPLE = Path(__file__).parents[2] / "examples" / "scorer_server.py"
HELLO = "import json, os, sys, time\nprint('{\"protocol\": 1}', flush=True)\n"
LOOP = HELLO + "for line in sys.stdin:\n    request = json.loads(line)\n    "


def write(folder: Path, program: str, *, timeout: float = 60, name: str = "mine") -> Path:
    """A .toml file and the program that it starts."""
    folder.mkdir(exist_ok=True)
    (folder / "server.py").write_text(program)
    command = json.dumps([sys.executable, "server.py"])
    (folder / "scorer.toml").write_text(f'name = "{name}"\ncommand = {command}\ntimeout = {timeout}\n')
    return folder / "scorer.toml"


def start(folder: Path, program: str, *, timeout: float = 60) -> ProcessReward:
    return ProcessReward(read_process(write(folder, program, timeout=timeout)))


def is_running(pid: int) -> bool:
    """Neither gone nor dead; one that has another parent than this process may be dead and not collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> list[str]:
    """This process's children, the dead ones that nobody collected included."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_the_example_scores_the_pictures_it_gets(tmp_path: Path):
    assert len(EXAMPLE.read_text().splitlines()) <= 50
    reward = start(tmp_path, EXAMPLE.read_text())
    assert reward.name == "mine"
    images = torch.stack([torch.full((3, 8, 8), value) for value in (0.0, 0.2, 1.0)])
    assert torch.equal(reward(images, ["a", "b", "é\n\ud800"]), torch.tensor([0.0, 51 / 255, 1.0]))
    alone = reward(images[1:2].double(), ["b"])
    assert alone.shape == (1,) and alone.dtype == torch.float64


def test_pictures_are_their_8_bits_and_prompts_are_whole(tmp_path: Path):
    program = LOOP + (
        "from PIL import Image\n    "
        "pixels = [sum(Image.open(path).tobytes()[::7]) for path in request['images']]\n    "
        "scores = [value + len(text) / 1000 for value, text in zip(pixels, request['prompts'])]\n    "
        "print(json.dumps({'id': request['id'], 'scores': scores}), flush=True)"
    )
    reward, images, prompts = start(tmp_path, program), pictures(3), ["", "a\ncat", "日本"]
    expected = [float(image.flatten()[::7].long().sum()) for image in to_uint8(images)]
    assert reward(images, prompts).tolist() == [value + n / 1000 for value, n in zip(expected, (0, 5, 2), strict=True)]
    for _ in range(3):  # request after request
        assert reward(images[1:2], prompts[1:2]).tolist() == [expected[1] + 0.005]


def test_it_ends_with_its_reward_and_so_does_what_it_started(tmp_path: Path):
    before = children()
    program = "import subprocess\nother = subprocess.Popen(['sleep', '60'])\nopen('pid', 'w').write(str(other.pid))\n"
    reward = start(tmp_path, program + HELLO + "sys.stdin.read()")
    other = int((tmp_path / "pid").read_text())
    assert is_running(other) and len(children()) == len(before) + 1
    del reward
    gc.collect()
    assert children() == before
    deadline = time.monotonic() + 20
    while is_running(other) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(other)


STARTS: dict[str, str] = {
    "ended with code 3 .its last words: no GPU here": "import sys\nprint('no GPU here', file=sys.stderr)\nsys.exit(3)",
    "ended with code 1 .its last words: ModuleNotFoundError: No module named 'hpsv9'": "import hpsv9",
    "was ended by signal 9": "import os\nos.kill(os.getpid(), 9)",
    "wrote Loading weights..., which is no answer": "print('Loading weights...', flush=True)",
    'must begin with {"protocol": 1}, and said {"protocol": 2}': "print('{\"protocol\": 2}')",
    "wrote 7, which is no answer": "print(7)",
    "failed: out of memory": 'print(\'{"error": "out of memory"}\')',
}


@pytest.mark.parametrize("message", STARTS)
def test_a_scorer_that_does_not_start_is_one_line(tmp_path: Path, message: str):
    before = children()
    with pytest.raises(ValueError) as error:
        start(tmp_path, STARTS[message])
    assert message.replace("code 3 .", "code 3 (").replace("code 1 .", "code 1 (") in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).startswith("reward 'mine': ")
    assert children() == before


ANSWERS: dict[str, str] = {
    "gave 1 scores for 3 pictures": "print(json.dumps({'id': 1, 'scores': [1]}), flush=True)",
    "gave no list of scores": "print(json.dumps({'id': 1}), flush=True)",
    "gave the score NaN": 'print(\'{"id": 1, "scores": [1, NaN, 2]}\', flush=True)',
    "gave the score Infinity": 'print(\'{"id": 1, "scores": [1, 1e999, 2]}\', flush=True)',
    "gave the score true": "print(json.dumps({'id': 1, 'scores': [1, True, 2]}), flush=True)",
    "gave the score 1000": "print(json.dumps({'id': 1, 'scores': [1, 10**400, 2]}), flush=True)",
    'gave the score "1"': "print(json.dumps({'id': 1, 'scores': [1, '1', 2]}), flush=True)",
    "answered request 7 instead of 1": "print(json.dumps({'id': 7, 'scores': [1, 2, 3]}), flush=True)",
    "wrote done 50%, which is no answer": "print('done 50%', flush=True)",
    "which is no answer": "print('[' * 100000, flush=True)",
    "wrote \ufffd\ufffd, which": "os.write(1, b'\\xff\\xfe\\n')",
    "wrote , which is no answer": "print(flush=True)",
    "failed: RuntimeError: it broke": "print(json.dumps({'id': 1, 'error': 'RuntimeError:\\nit  broke'}), flush=True)",
    "ended with code 4": "sys.exit(4)",
    "closed its standard output": "os.close(1), time.sleep(60)",
    "gave no answer in 0.2 seconds": "time.sleep(60)",
    "aaaa…, which is no answer": "print('a' * 3000000, flush=True)",
}


@pytest.mark.parametrize("message", ANSWERS)
def test_a_failure_is_one_line_at_every_call_and_leaves_no_process(
    tmp_path: Path, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("reneg.rewards.process.STOP_SECONDS", 0.2)
    before = children()
    reward = start(tmp_path, LOOP + ANSWERS[message])
    if "seconds" in message:
        reward._timeout = 0.2
    said = []
    for _ in range(2):
        with pytest.raises(ValueError) as error:
            reward(pictures(3), ["", "", ""])
        said.append(str(error.value))
    assert message in said[0] and said[0] == said[1]
    assert "\n" not in said[0] and len(said[0]) < 700 and said[0].startswith("reward 'mine': ")
    assert children() == before


def test_one_that_reads_nothing_is_given_up_too(tmp_path: Path):
    reward = start(tmp_path, HELLO + "time.sleep(60)")
    reward._timeout = 0.3
    with pytest.raises(ValueError, match=r"gave no answer in 0\.3 seconds"):
        reward(pictures(1), ["a" * 300_000])  # more than a pipe holds


@pytest.mark.parametrize(
    ("then", "message"),
    [("time.sleep(60)", r"gave no answer in 0\.5 seconds"), ("sys.exit(6)", "the scorer ended with code 6")],
)
def test_what_it_started_apart_cannot_hold_the_answer_up(tmp_path: Path, then: str, message: str):
    """A process in a session of its own outlives the scorer, and keeps its standard output open."""
    other = "import subprocess\nother = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
    reward = start(tmp_path, other + "open('pid', 'w').write(str(other.pid))\n" + LOOP + then)
    reward._timeout = 0.5 if "seconds" in message else 60
    begin = time.monotonic()
    try:
        with pytest.raises(ValueError, match=message):
            reward(pictures(1), [""])
        assert time.monotonic() - begin < 40
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_lines_that_come_together_are_told_apart(tmp_path: Path):
    """What follows the greeting is the first answer, and what follows that is no second one."""
    both = 'os.write(1, b\'{"id": 1, "scores": [1]}\\nloading\\n\')'
    reward = start(tmp_path, LOOP + both)
    assert reward(pictures(1), [""]).tolist() == [1.0]
    with pytest.raises(ValueError, match="wrote loading, which is no answer"):
        reward(pictures(1), [""])


def test_one_that_ended_between_calls_is_told(tmp_path: Path):
    answer = "print(json.dumps({'id': 1, 'scores': [1]}), flush=True)\n    sys.exit(5)"
    reward = start(tmp_path, LOOP + answer)
    reward(pictures(1), [""])
    reward._process.wait()
    for _ in range(2):
        with pytest.raises(ValueError, match="the scorer ended with code 5"):
            reward(pictures(1), ["a" * 300_000])


FILES = {
    "cannot be read": None,
    "cannot be read .*at end of document": "command = [",
    "needs command = ": 'name = "x"',
    "got 'python server.py'": 'command = "python server.py"',
    r"got \[\]": "command = []",
    "got .'python', 3.": 'command = ["python", 3]',
    "has 'comand', which is none of name, command, timeout": 'comand = ["python"]',
    r"has the name 'a\\nb'": 'command = ["python"]\nname = "a\\nb"',
    "has the timeout 0": 'command = ["python"]\ntimeout = 0',
    "has the timeout True": 'command = ["python"]\ntimeout = true',
    "cannot start 'no-such-program' .*No such file": 'command = ["no-such-program"]',
    "cannot start './scorer.toml' .*Permission denied": 'command = ["./scorer.toml"]',
    "cannot start .*null byte": 'command = ["python\\u0000"]',
}


@pytest.mark.parametrize("message", FILES)
def test_other_files_are_refused_in_one_line(tmp_path: Path, message: str):
    path, content = tmp_path / "scorer.toml", FILES[message]
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_reward(str(path))
    assert "\n" not in str(error.value)


def test_the_files_name_is_the_reports_where_it_gives_none(tmp_path: Path):
    (tmp_path / "hpsv3.toml").write_text('command = ["python"]')
    settings = read_process(tmp_path / "hpsv3.toml")
    assert (settings.name, settings.timeout, settings.folder) == ("hpsv3", 600, tmp_path.resolve())


def test_learning_from_it_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = str(tmp_path / "gone.toml")
    for reward in (path, [f"{path}=0.5", "world/preference"]):
        with pytest.raises(ValueError, match=r"gives no gradient; it can only evaluate, or be the --monitor"):
            load_mixture(reward)
    reward = start(tmp_path, HELLO + "sys.stdin.read()")
    with pytest.raises(ValueError, match="--reward mine: a scorer in another process gives no gradient"):
        reward(pictures(1).requires_grad_(), [""])
    assert main(["learn", "--reward", path, "--output_dir", str(tmp_path / "run")]) == 2
    assert "gives no gradient" in capsys.readouterr().err


def test_it_can_be_the_monitor(tmp_path: Path):
    names = save_tiny_world(tmp_path / "world")
    path = write(tmp_path / "scorer", EXAMPLE.read_text())
    learn(quick(tmp_path / "run", **(names | {"max_train_steps": 1, "monitor": str(path)})))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    looks = [row["monitor"] for row in rows if "monitor" in row]
    assert looks and all(0 < value < 1 for value in looks)


@pytest.fixture
def evaluation(tmp_path: Path) -> Callable[..., EvaluateConfig]:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a cat\nred hat\n")

    def make(*rewards: Path) -> EvaluateConfig:
        return EvaluateConfig(
            model=str(tmp_path / "model"),
            prompts=tmp_path / "prompts.txt",
            negatives=["null", "bad"],
            rewards=[str(reward) for reward in rewards],
            num_inference_steps=2,
            num_seeds=1,
            output_dir=tmp_path / "out",
        )

    return make


def test_evaluation_reports_it_by_its_name(tmp_path: Path, evaluation: Callable[..., EvaluateConfig]):
    before = children()
    path = write(tmp_path / "scorer", EXAMPLE.read_text(), name="brightness")
    config = evaluation(path, save_tiny_reward(tmp_path / "reward"))
    results = evaluate(config)
    gc.collect()
    assert children() == before
    (shown,) = [json.loads(line) for line in (config.output_dir / "scores.jsonl").read_text().splitlines()][:1]
    assert set(shown["scores"]) == {"brightness", str(tmp_path / "reward")}
    assert 0 < shown["scores"]["brightness"] < 1
    # What was scored stays: a scorer that has changed nothing about itself is not asked again.
    again = evaluate(replace(config, published=False))
    assert again["overall"] == results["overall"]


def test_evaluation_tells_versions_apart_and_a_failure_costs_no_score(
    tmp_path: Path, evaluation: Callable[..., EvaluateConfig], capsys: pytest.CaptureFixture[str]
):
    path = write(tmp_path / "scorer", LOOP + "sys.exit(1)")
    with pytest.raises(ValueError, match="reward 'mine': .*the scorer ended with code 1"):
        evaluate(evaluation(path))
    before = reward_fingerprint(str(path), published=False)
    assert before == reward_fingerprint(str(path), published=True)  # it always gets 8-bit pictures
    write(tmp_path / "scorer", EXAMPLE.read_text())
    assert reward_fingerprint(str(path), published=False) != before
    results = evaluate(evaluation(path))
    assert results["work"]["pictures_sampled_in_this_run"] == 0
    changed = reward_fingerprint(str(path), published=False)
    write(tmp_path / "scorer", EXAMPLE.read_text(), timeout=61)
    assert reward_fingerprint(str(path), published=False) != changed
