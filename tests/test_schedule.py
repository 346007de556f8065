import pytest
import torch
from diffusers.optimization import get_scheduler

from reneg.randomness import prompt_index
from reneg.schedule import learning_rate_factor, sample_numbers


@pytest.mark.parametrize("warm_up", [0, 7])
@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # nothing is optimised here
def test_learning_rate_equals_that_of_diffusers(name: str, warm_up: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.25)
    theirs = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        optimizer,
        num_warmup_steps=warm_up,
        num_training_steps=50,
    )
    for step in range(50):
        assert 0.25 * learning_rate_factor(name, step, 50, warm_up) == pytest.approx(
            theirs.get_last_lr()[0], abs=1e-12
        )
        theirs.step()


def test_warm_up_may_take_the_whole_run() -> None:
    assert [learning_rate_factor("cosine", step, 4, 4) for step in range(4)] == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("batch, accumulation, processes", [(12, 1, 1), (1, 12, 1), (3, 2, 2), (2, 2, 3)])
def test_every_batching_sees_the_same_samples(batch: int, accumulation: int, processes: int) -> None:
    for step in (0, 1, 5):
        numbers = [
            number
            for process in range(processes)
            for micro_batch in range(accumulation)
            for number in sample_numbers(
                step,
                process,
                micro_batch,
                train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                num_processes=processes,
            )
        ]
        assert numbers == list(range(step * 12, step * 12 + 12))


def test_an_epoch_takes_every_prompt_once_in_an_order_of_its_own() -> None:
    epochs = [[prompt_index(0, epoch * 10 + i, 10) for i in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [prompt_index(1, i, 10) for i in range(10)]
