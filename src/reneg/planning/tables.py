"""A plan as tables for a terminal."""

from rich.console import Console
from rich.table import Table

from reneg.planning.plan import GIB, GPUS, RESERVE, Plan


def gib(size: int | float) -> str:
    """Bytes as text."""
    return f"{size / GIB:.2f} GiB"


def print_plan(plan: Plan, console: Console) -> None:
    """Components, phases, and the verdict."""
    config = plan.config
    switches = (config.gradient_checkpointing, config.vae_slicing, config.offload)
    checkpointing, slicing, offload = ("with" if on else "without" for on in switches)
    console.print(
        f"{config.model} in {config.dtype} with {config.reward}, {plan.resolution} pixels, "
        f"train_batch_size {config.train_batch_size}, {checkpointing} gradient checkpointing, "
        f"{slicing} VAE slicing, {offload} offload"
    )
    components = Table("component", "class", "parameters", "precision", "bytes", title="Weights")
    for part in plan.components:
        components.add_row(part.name, part.class_name, f"{part.parameters:,}", part.dtype, gib(part.size))
    components.add_row("all", "", f"{sum(part.parameters for part in plan.components):,}", "", gib(plan.weights))
    phases = Table("phase", "weights", "kept for backward", "activations at most", "in all", title="Phases")
    for phase in plan.phases:
        phases.add_row(
            phase.name, *(gib(n) for n in (plan.resident(phase), phase.kept, phase.peak, plan.total(phase)))
        )
    for table in (components, phases):
        for column in table.columns[2:] if table is components else table.columns[1:]:
            column.justify = "right"
        console.print(table)
    console.print(f"Expected peak: {gib(plan.peak)}, and {gib(RESERVE)} of reserve (an assumption)")
    batches = Table("GPU", *(f"{memory:g} GiB" for memory in GPUS), title="Largest --train_batch_size that fits")
    batches.add_row("", *(str(plan.largest_batch(memory) or "none") for memory in GPUS))
    console.print(batches)
    for line in verdict(plan):
        console.print(line)


def verdict(plan: Plan) -> list[str]:
    """Whether it fits the GPU, and what would; nothing without a GPU."""
    config, memory = plan.config, plan.config.gpu_memory
    if memory is None:
        return []
    lines, largest = [f"{'Fits' if plan.fits else 'Does not fit'} {memory:g} GiB"], plan.largest_batch(memory)
    if largest == 0:
        savers = ["--dtype bf16"] * (config.dtype == "fp32")
        savers += ["--gradient_checkpointing"] * (not config.gradient_checkpointing)
        savers += ["--offload"] * (not config.offload)
        hint = f"; try {' and '.join(savers)}" if savers else ""
        return [*lines, f"Not even --train_batch_size 1 does{hint}"]
    return [*lines, f"Largest --train_batch_size that fits: {largest}"]
