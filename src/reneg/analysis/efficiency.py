"""Table 1: parameter efficiency E(theta) = ||J||_F / (N D d) of the Jacobian J = dX / dtheta (§4.1).

X [N, D] are the fully sampled latents of N prompts, theta has d numbers. J is too large to be built, but for random v
with independent entries of mean 0 and variance 1 (Hutchinson 1990; Rademacher has the least variance)

    E ||J^T v||^2 = ||J||_F^2,

and J^T v is one backward pass through the whole trajectory, which serves every set of parameters at once. The other
way, ||J u||^2 for random u in the space of the parameters (forward mode), has about the same variance, which follows
from the eigenvalues that J J^T and J^T J share, and needs a pass for each set.
"""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn import Parameter

from reneg.algorithm import predict_guided
from reneg.analysis.config import Table1Config
from reneg.analysis.output import Outcome, experiment_prompts, write_outcome
from reneg.analysis.paper import TABLE_1, TABLE_1_LATENT, TABLE_1_SIZES
from reneg.baselines.inputs import model_fingerprint
from reneg.evaluation.statistics import Estimate, bootstrap
from reneg.evaluation.store import Shards, content_key
from reneg.files import make_output_dir
from reneg.generation import picture_generators, picture_noise
from reneg.interfaces import Conditioning, DiffusionModel, PipelineModel
from reneg.models import load_configured
from reneg.negatives import batches
from reneg.randomness import make_generator
from reneg.targets.lora import add_adapter
from reneg.targets.negative_embedding import NegativeEmbeddingTarget
from reneg.targets.weights import make_trainable

logger = logging.getLogger(__name__)

PEFT_ALPHA = 8
"""peft's default, whatever the rank."""
Groups = dict[str, list[Parameter]]


def parameter_groups(model: PipelineModel, ranks: Sequence[int], seed: int) -> tuple[Groups, Conditioning]:
    """The rows of Table 1, all in one model at once, and the negative conditioning with n in it.

    LoRA begins at B = 0 and changes no picture, so adapters of several ranks and beginnings can be there together: as
    diffusers' scripts begin them and `reneg learn` does (A normal with standard deviation 1 / rank, alpha = rank), and
    as peft does (A uniform with variance 1 / (3 inputs), alpha = 8). A and B are groups of their own.
    """
    embedding = NegativeEmbeddingTarget(model)
    groups: Groups = {"n": embedding.parameters(), "all weights": list(model.denoiser.parameters())}
    make_trainable(model.denoiser)
    names = []
    for rank in ranks:
        for label, alpha in ((f"LoRA r={rank}", None), (f"LoRA r={rank} (peft)", PEFT_ALPHA)):
            names.append(f"table1_{rank}_{'peft' if alpha else 'reneg'}")
            with warnings.catch_warnings():  # peft asks whether several adapters are meant
                warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
                named = add_adapter(model.denoiser, rank=rank, seed=seed, name=names[-1], alpha=alpha)
            for part in ("A", "B"):
                groups[f"{label}, {part}"] = [p for name, p in named.items() if f".lora_{part}." in name]
    model.denoiser.set_adapters(names)
    for parameter in (parameter for group in groups.values() for parameter in group):
        parameter.requires_grad_(True)  # each adapter froze what was there before it
    return groups, embedding.negative()


def vector_jacobian(
    model: DiffusionModel,
    parameters: Sequence[Parameter],
    positive: Conditioning,
    negative: Conditioning,
    noise: Float[Tensor, "b c h w"],
    vectors: Float[Tensor, "b c h w"],
    *,
    guidance_scale: float,
    num_inference_steps: int,
) -> list[Tensor]:
    """J^T v of the sampled latents, for each parameter, summed over the batch.

    Backward through every step of the trajectory, one at a time from the last: only the latents between the steps are
    kept, and each step is computed again where its graph is needed.

    Args:
        negative: of one prompt, with a graph if its embedding is among the parameters.
        vectors: v, in the space of the latents.
    """
    timesteps = model.set_timesteps(num_inference_steps)

    def step(latents: Tensor, timestep: Tensor) -> Tensor:
        both = positive, negative.expand(len(latents))
        return model.step(predict_guided(model, latents, timestep, *both, guidance_scale), timestep, latents, [])

    with torch.no_grad():
        path = [model.initial_latents(noise)]
        for timestep in timesteps:
            path.append(step(path[-1], timestep))
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for latents, timestep in zip(path[-2::-1], timesteps.flip(0), strict=True):
        latents.requires_grad_(True)
        after = step(latents, timestep)
        gradients = torch.autograd.grad(after, [latents, *parameters], vectors, materialize_grads=True)
        vectors = gradients[0]
        for total, gradient in zip(sums, gradients[1:], strict=True):
            total += gradient
    return sums


def squared_norms(groups: Groups, products: Sequence[Tensor]) -> Float[ndarray, " g"]:
    """||J^T v||^2 of each group, from the products of all parameters in the groups' order."""
    squares = [float(product.double().square().sum()) for product in products]
    sizes = np.cumsum([len(group) for group in groups.values()])
    return np.array([sum(part) for part in np.split(np.array(squares), sizes[:-1])])


def probe(
    model: DiffusionModel,
    groups: Groups,
    negative: Conditioning,
    prompts: Sequence[str],
    number: int,
    config: Table1Config,
) -> Float[ndarray, " g"]:
    """One unbiased estimate of ||J||_F^2 for each group: a random direction for all prompts, batch by batch.

    The latents of different prompts share nothing but theta, so the squares of the batches add up, and each batch less
    is a source of noise less: v' J_i J_k^T v for two prompts of one batch is 0 on average only.
    """
    parameters = [parameter for group in groups.values() for parameter in group]
    total = np.zeros(len(groups))
    for numbers in batches(range(len(prompts)), config.batch_size):
        noise = picture_noise(model, picture_generators(config.seed, numbers.start, len(numbers)))
        generators = [make_generator(config.seed, f"probe {number}", sample) for sample in numbers]
        signs = [torch.randint(0, 2, model.latent_shape, generator=generator) * 2 - 1 for generator in generators]
        products = vector_jacobian(
            model,
            parameters,
            model.encode_prompt(prompts[numbers.start : numbers.stop]),
            negative,
            noise,
            torch.stack(signs).to(noise),
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
        )
        total += squared_norms(groups, products)
    return total


def measure(model: PipelineModel, prompts: Sequence[str], config: Table1Config, key: str) -> tuple[Groups, ndarray]:
    """The groups, and what each probe gave for them, [probes, groups]; what is in the folder is not computed again."""
    groups, negative = parameter_groups(model, config.lora_ranks, config.seed)
    store = Shards(config.output_dir / "probes" / key, config.num_probes)
    for (number,) in store.missing(1):
        store.write(number, probe(model, groups, negative, prompts, number, config)[None])
        logger.info("table1: probe %d of %d", number + 1, config.num_probes)
    return groups, store.read(range(config.num_probes))


def efficiency(squares: Float[ndarray, " k"], d: int, size: int) -> dict[str, Estimate]:
    """E and the root mean square of J's entries from estimates of ||J||_F^2, with 95 % intervals over the probes.

    Args:
        d: numbers of theta.
        size: N D, numbers of X.
    """
    (norm,) = bootstrap(squares[:, None])
    assert norm.low is not None and norm.high is not None  # there are two probes at least
    mean, low, high = (math.sqrt(bound) for bound in (norm.mean, norm.low, norm.high))
    scales = {"E": size * d, "rms": math.sqrt(size * d)}
    return {name: Estimate(mean / scale, low / scale, high / scale) for name, scale in scales.items()}


def table_1(groups: Groups, squares: Float[ndarray, "k g"], size: int) -> dict[str, dict]:
    """The rows: d, E and rms, LoRA's A and B together; and the share of ||J||_F^2 that is A's."""
    columns = dict(zip(groups, squares.T, strict=True))
    sizes = {name: sum(parameter.numel() for parameter in group) for name, group in groups.items()}
    rows = {}
    for label in dict.fromkeys(name.rpartition(", ")[0] or name for name in groups):
        parts = [label] if label in columns else [f"{label}, A", f"{label}, B"]
        total, d = np.sum([columns[part] for part in parts], axis=0), sum(sizes[part] for part in parts)
        rows[label] = {"d": d} | {name: asdict(value) for name, value in efficiency(total, d, size).items()}
        if len(parts) > 1:
            rows[label]["share_of_A"] = float(columns[parts[0]].sum() / total.sum())
    return rows


def run_table_1(config: Table1Config) -> Path:
    """`reneg reproduce table1`; gives the table's file.

    Raises:
        ValueError, OSError: with one line that names the flag.
    """
    make_output_dir(config.output_dir)
    model = load_configured(config, device=config.device)
    prompts = experiment_prompts(config.prompts, model, config.num_prompts)
    # Everything that a probe depends on; more probes go on from those that are there.
    settings = asdict(replace(config, output_dir=Path(), num_probes=2, prompts=None))
    key = content_key({"model": model_fingerprint(config.model), "prompts": prompts, "settings": str(settings)})
    groups, squares = measure(model, prompts, config, key)
    latent = math.prod(model.latent_shape)
    rows = table_1(groups, squares, config.num_prompts * latent)
    content = {"N": config.num_prompts, "D": latent, "rows": rows, "paper": {"E": TABLE_1, "d": TABLE_1_SIZES}}
    return write_outcome(config, _outcome(config, rows, content))


def _outcome(config: Table1Config, rows: dict[str, dict], content: dict) -> Outcome:
    table = []
    for name, row in rows.items():
        cells = {"theta": name, "d": f"{row['d']:,}"}
        cells |= {"E": _number(row["E"]), "rms of J's entries": _number(row["rms"])}
        if name in TABLE_1:
            root = math.sqrt(TABLE_1_LATENT * TABLE_1_SIZES[name])
            cells |= {"paper's E": f"{TABLE_1[name]:.1e}", "paper's rms / sqrt(N)": f"{TABLE_1[name] * root:.1e}"}
        table.append(cells)
    text = (
        f"E = ||J||_F / (N D d) of J = dX/dtheta, N = {content['N']} prompts, D = {content['D']} numbers of a latent, "
        f"{config.num_inference_steps} DDIM steps, guidance {config.guidance_scale:g}; 95 % intervals over "
        f"{config.num_probes} random directions, for these prompts and noises.\n\n{_orders(rows)}\n\n"
        "E falls with d by definition. Beside it stands ||J||_F / sqrt(N D d), the root mean square of J's entries; "
        "the paper's is its E times sqrt(D d) with SD 1.5's D and d, and lacks the factor sqrt(N), as N is not given."
        "\n\n"
        "LoRA begins at B = 0, where the gradient of A is zero: all of its norm is B's, and its size is that of A. "
        "A is normal with standard deviation 1/r and alpha = r (diffusers' scripts, reneg learn), or as peft begins "
        f"it: uniform with variance 1/(3 inputs), alpha = {PEFT_ALPHA}."
    )
    return Outcome("Table 1: parameter efficiency", text, table, content)


def _orders(rows: dict[str, dict]) -> str:
    """Who is before whom by either measure, and in the paper, of the rows that it has."""
    own = [name for name in TABLE_1 if name in rows]

    def order(value: Callable[[str], float]) -> str:
        return " > ".join(sorted(own, key=value, reverse=True))

    return (
        f"By E: {order(lambda name: rows[name]['E']['mean'])} (the paper: {order(TABLE_1.__getitem__)}). "
        f"By the root mean square: {order(lambda name: rows[name]['rms']['mean'])}."
    )


def _number(estimate: dict) -> str:
    return f"{estimate['mean']:.2e} [{estimate['low']:.2e}, {estimate['high']:.2e}]"
