"""One optimiser step of learning, run on tensors without numbers, and what its phases hold in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from reneg.config import PlanConfig
from reneg.generation import DECODED_AT_ONCE
from reneg.guidance import guided_prediction
from reneg.monitor import BATCH
from reneg.objective import reward_loss, reward_loss_one_by_one
from reneg.planning.skeletons import CLIP, Skeleton, build, build_pipeline, read_model, read_reward
from reneg.planning.tracker import MemoryTracker
from reneg.rewards.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocess

GIB = 2**30
GPUS = (8.0, 12.0, 16.0, 24.0, 48.0, 80.0)
"""Memory of common GPUs, in GiB."""
RESERVE = 1.5 * GIB
"""Kept free for the CUDA context, kernels' scratch memory and the allocator's gaps: assumed, not measured."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ENCODING, TRAJECTORY, GRADIENT = "text encoding", "trajectory, no gradient", "gradient step: denoiser"
SCORING, BACKWARD = "gradient step: decode and reward", "gradient step: backward"
LOOK, JUDGING = "monitor's look: sampling", "monitor's look: scoring"
GRADIENT_PARTS = ("denoiser", "VAE", "reward")
OFFLOADED = {LOOK: ("denoiser", "VAE"), JUDGING: ("reward", "monitor")}
"""Phase -> what alone is on the GPU with offloading; in the other phases after encoding it is GRADIENT_PARTS."""


@dataclass(frozen=True)
class Component:
    """Weights of one part."""

    name: str
    class_name: str
    dtype: str
    parameters: int
    size: int
    """Bytes of its parameters and buffers."""


@dataclass(frozen=True)
class Phase:
    """Activations of one phase."""

    name: str
    kept: int
    """Bytes that it leaves behind for backward, together with those of the phases before."""
    peak: int
    """Most bytes at one time, weights not counted."""


@dataclass(frozen=True)
class Plan:
    """The bytes that some settings need."""

    config: PlanConfig
    resolution: int
    components: list[Component]
    phases: list[Phase]
    growth: dict[str, float]
    """Phase -> bytes that each further sample adds to its peak: activations grow linearly with the batch."""

    @property
    def weights(self) -> int:
        """Of all components."""
        return sum(component.size for component in self.components)

    def resident(self, phase: Phase) -> int:
        """Bytes of the weights that are on the GPU in a phase: without the text encoders after theirs, and with
        offloading without all that the phase does not need."""
        encoders = [part.name for part in self.components if part.name.startswith("text_encoder")]
        if phase.name == ENCODING:
            names = encoders if self.config.offload else [part.name for part in self.components]
        elif self.config.offload:
            names = OFFLOADED.get(phase.name, GRADIENT_PARTS)
        else:
            names = [part.name for part in self.components if part.name not in encoders]
        return sum(part.size for part in self.components if part.name in names)

    def total(self, phase: Phase) -> int:
        """Most bytes of a phase at one time, with the weights."""
        return self.resident(phase) + phase.peak

    @property
    def peak(self) -> int:
        """Of the largest phase, weights and activations."""
        return max(self.total(phase) for phase in self.phases)

    @property
    def fits(self) -> bool | None:
        """None without a GPU's memory to fit in."""
        memory = self.config.gpu_memory
        return None if memory is None else self.peak + RESERVE <= memory * GIB

    def largest_batch(self, memory: float) -> int:
        """How many samples fit a GPU of so many GiB; 0 where not even one does."""
        room, further, limits = memory * GIB - RESERVE, self.config.train_batch_size - 1, list[int]()
        for phase in self.phases:
            growth = self.growth.get(phase.name, 0.0)
            one = self.total(phase) - further * growth
            if one > room:
                return 0
            if growth > 0:
                limits.append(int(1 + (room - one) // growth))
        return min(limits)


def plan(config: PlanConfig) -> Plan:
    """Build everything on fake tensors and go through one step.

    Raises:
        ValueError: a model or reward that cannot be planned, or a resolution that does not suit the model.
    """
    configs = read_model(config.model)
    rewards = {"reward": read_reward(config.reward, "--reward")}
    if config.monitor is not None:
        rewards["monitor"] = read_reward(config.monitor, "--monitor")
    with FakeTensorMode(allow_non_fake_inputs=True):
        skeleton = build_pipeline(configs, DTYPES[config.dtype])
        precisions = {"reward": DTYPES[config.reward_dtype], "monitor": torch.float32}
        scorers = {name: build(reward, precisions[name]) for name, reward in rewards.items()}
        if config.gradient_checkpointing:
            for module in (skeleton.denoiser, *([skeleton.vae] if skeleton.family.vae_checkpoints else [])):
                module.enable_gradient_checkpointing()
        resolution = _resolution(config, skeleton)
        modules = {**skeleton.encoders, "denoiser": skeleton.denoiser, "VAE": skeleton.vae, **scorers}
        components = [_component(name, module) for name, module in modules.items()]
        stage = Stage(skeleton, scorers, resolution, vae_slicing=config.vae_slicing)
        batch = config.train_batch_size
        other = 2 if batch == 1 else 1
        found = stage.phases(batch)
        peaks = {phase.name: phase.peak for phase in stage.phases(other, whole=False)}
        growth = {p.name: (p.peak - peaks[p.name]) / (batch - other) for p in found if p.name in peaks}
        return Plan(config, resolution, components, found, growth)


def _component(name: str, module: Any) -> Component:
    tensors = [*module.parameters(), *module.buffers()]
    dtype = str(module.dtype).removeprefix("torch.")
    size = sum(tensor.nbytes for tensor in tensors)
    return Component(name, type(module).__name__, dtype, sum(p.numel() for p in module.parameters()), size)


def _resolution(config: PlanConfig, skeleton: Skeleton) -> int:
    own = skeleton.denoiser.config.sample_size * skeleton.vae_scale
    multiple = skeleton.vae_scale * (skeleton.denoiser.config.get("patch_size") or _unet_scale(skeleton))
    resolution = own if config.resolution is None else config.resolution
    if resolution % multiple:
        raise ValueError(f"--resolution {resolution}: must be a multiple of {multiple} with --model {config.model}")
    return resolution


def _unet_scale(skeleton: Skeleton) -> int:
    return 2 ** (len(skeleton.denoiser.config.block_out_channels) - 1)


class Stage:
    """Everything that a step needs, to be run at some batch sizes."""

    def __init__(self, skeleton: Skeleton, scorers: dict[str, Any], resolution: int, *, vae_slicing: bool):
        self._skeleton, self._scorers, self._resolution = skeleton, scorers, resolution
        self._vae_slicing = vae_slicing
        modules = [skeleton.denoiser, skeleton.vae, *skeleton.encoders.values(), *scorers.values()]
        self._weights = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]

    def phases(self, batch: int, *, whole: bool = True) -> list[Phase]:
        """One step as `algorithm.training_steps` takes it; as a whole with what the batch plays no part in.

        That is the texts' encoding before it, and a look as `Monitor.measure` takes it.
        """
        found: list[Phase] = []
        with MemoryTracker(self._weights) as tracker:

            @contextmanager
            def phase(name: str) -> Iterator[None]:
                tracker.restart_peak()
                yield
                found.append(Phase(name, tracker.live, tracker.peak))

            if whole:
                with phase(ENCODING), torch.no_grad():
                    self._encode()
            with phase(TRAJECTORY), torch.no_grad():
                self._predict(2 * batch)
            with phase(GRADIENT):
                x0 = self._x0(batch)
            with phase(SCORING):
                loss = self._loss(x0)
            with phase(BACKWARD):
                loss.backward()
            del x0, loss
            if whole:
                with phase(LOOK), torch.no_grad():
                    images = self._sample()
                with phase(JUDGING), torch.no_grad():
                    for scorer in self._scorers.values():
                        self._score(scorer, images)
        return found

    def _encode(self) -> None:
        """One prompt, as `LatentModel.encode_ahead` encodes them."""
        for encoder in self._skeleton.encoders.values():
            clip = type(encoder).__name__ in CLIP
            length = encoder.config.max_position_embeddings if clip else self._skeleton.family.t5_tokens
            encoder(torch.ones(1, length, dtype=torch.long))

    def _predict(self, batch: int, embeds: Tensor | None = None) -> Tensor:
        """The denoiser's output for latents of its own precision."""
        skeleton = self._skeleton
        inputs = skeleton.family.inputs(skeleton.denoiser, batch, skeleton.tokens)
        states = inputs["encoder_hidden_states"] if embeds is None else embeds.expand(batch, -1, -1)
        inputs["encoder_hidden_states"] = states.to(skeleton.denoiser.dtype)
        latents = skeleton.latents(batch, self._resolution)
        channels = latents.shape[1]
        return skeleton.denoiser(latents, return_dict=False, **inputs)[0][:, :channels]

    def _x0(self, batch: int) -> Tensor:
        """Eq. 5 and 6 with a graph in the negative branch alone."""
        skeleton = self._skeleton
        inputs = skeleton.family.inputs(skeleton.denoiser, 1, skeleton.tokens)
        embeds = inputs["encoder_hidden_states"].requires_grad_()
        pred_uncond = self._predict(batch, embeds)
        with torch.no_grad():
            pred_cond = self._predict(batch)
        prediction = guided_prediction(pred_cond, pred_uncond, 7.5)
        return skeleton.latents(batch, self._resolution).float() - prediction

    def _loss(self, x0: Tensor) -> Tensor:
        """Eq. 7, as `algorithm.score` has it."""

        def reward_of(latents: Tensor, number: int = 0) -> Tensor:
            return self._score(self._scorers["reward"], self._decode(latents))

        return reward_loss_one_by_one(reward_of, x0)[0] if self._vae_slicing else reward_loss(reward_of(x0))

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self._skeleton.vae
        return vae.decode(latents.to(vae.dtype)).sample.float() / 2 + 0.5

    def _score(self, scorer: Any, images: Tensor) -> Tensor:
        """As ClipReward scores: the pictures with a graph, the prompts without."""
        config = scorer.config
        tower = getattr(config, "vision_config", config)
        pixels = ImagePreprocess(tower.image_size, CLIP_MEAN, CLIP_STD)(images).to(scorer.dtype)
        if type(scorer).__name__ == "CLIPVisionModelWithProjection":
            return scorer(pixel_values=pixels).image_embeds.mean(-1)
        encoded = scorer.get_image_features(pixel_values=pixels).pooler_output
        with torch.no_grad():
            ids = torch.ones(len(images), config.text_config.max_position_embeddings, dtype=torch.long)
            prompts = scorer.get_text_features(input_ids=ids).pooler_output
        return (encoded * prompts).sum(-1)

    def _sample(self) -> Tensor:
        """One batch of the monitor's pictures, of which the last ones that are decoded at once stand for all."""
        self._predict(2 * BATCH)
        latents = self._skeleton.latents(BATCH, self._resolution)
        last = self._decode(latents[:DECODED_AT_ONCE]).clamp(0, 1)
        others = torch.zeros(BATCH - DECODED_AT_ONCE, *last.shape[1:]).to(last.dtype)
        return torch.cat([others, last])
