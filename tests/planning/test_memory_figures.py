"""What benchmarks/memory.py counted and measured, and the page that tells it."""

import pytest
from benchmarks import memory


def test_the_page_has_the_figures_of_the_file():
    assert memory.tables() in memory.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", memory.SIZES)
def test_what_the_denoiser_saves_is_small(name: str):
    """Beside a plain batch of both branches, at every size; and the line through two sizes foretells the third."""
    rows = memory.rows_of("counted")
    for side in memory.SIZES[name]:
        plain, negative, checkpointed, sliced = (memory.find(rows, name, v, side) for v in memory.VARIANTS)
        assert negative["denoiser_saved"] <= 0.55 * plain["denoiser_saved"]
        assert checkpointed["denoiser_saved"] <= 0.12 * plain["denoiser_saved"]
        assert sliced["denoiser_saved"] == checkpointed["denoiser_saved"]
        assert sliced["peak"] < checkpointed["peak"] < negative["peak"] < plain["peak"]
    for variant in memory.VARIANTS:
        counted = memory.find(rows, name, variant, memory.SIZES[name][-1])["denoiser_saved"]
        assert memory.followed(rows, name, variant, "denoiser_saved") == pytest.approx(counted, rel=0.02)


def test_the_gradient_is_the_same_and_the_bytes_are_those_counted():
    counted, measured = memory.rows_of("counted"), memory.rows_of("measured")
    for row in measured:
        known = memory.find(counted, row["model"], row["variant"], row["pixels"])
        assert row["apart"] <= 1e-5
        assert (row["denoiser_saved"], row["kept"]) == (known["denoiser_saved"], known["kept"])
        assert row["peak"] == pytest.approx(known["peak"], rel=0.01)
    assert {row["variant"] for row in measured} == set(memory.VARIANTS)
