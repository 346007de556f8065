"""ReFL's target: all weights of the denoiser; with named parameters, also some of them or adapters in it."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import Parameter

from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy, PipelineModel
from reneg.targets.weights import Weights, make_trainable, weights_digest


class DenoiserTarget:
    """Parameters within the denoiser, trained where they are: the model that is given changes.

    Both branches of Eq. 5 go through them, so both keep a graph. The text encoder stays as it is, and the
    negative is what the pipeline takes without a negative prompt.
    """

    policy = GradientPolicy(positive=True, negative=True)

    def __init__(
        self, model: DiffusionModel, named: dict[str, Parameter], digest: Tensor, facts: dict[str, str] | None = None
    ):
        """Train some parameters.

        Args:
            named: what is trained, by its name in the file.
            digest: of the denoiser's weights before anything is trained.
            facts: for the file's metadata.
        """
        self.named = named
        self._digest, self._facts, self._null = digest, facts or {}, model.null_conditioning().detach()

    def parameters(self) -> list[Parameter]:
        return list(self.named.values())

    def fingerprint(self) -> list[Tensor]:
        """The digest of the weights that learning started from."""
        return [self._digest]

    def guidance_scale(self, configured: float) -> float:
        return configured

    def negative(self) -> Conditioning:
        """What the pipeline takes without a negative prompt, as the conditioning of one prompt."""
        return self._null

    def condition(self, model: DiffusionModel, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        return model.encode_prompt(prompts), self._null.expand(len(prompts))

    def artifact(self, metadata: dict[str, str]) -> Weights:
        return Weights.of(self.named, metadata | self._facts)


def all_weights(model: PipelineModel) -> DenoiserTarget:
    """All weights of the denoiser, as ReFL (arXiv 2304.05977) trains them; named as in diffusers' own file of them."""
    digest = weights_digest([model.denoiser])
    make_trainable(model.denoiser)
    return DenoiserTarget(model, dict(model.denoiser.named_parameters()), digest)
