"""TextCraftor's target (arXiv 2403.18978): all weights of the text encoder, and of each if there are several."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import Parameter

from reneg.interfaces import Conditioning, DiffusionModel, GradientPolicy, PipelineModel
from reneg.targets.weights import Weights, component_name, make_trainable, weights_digest


class TextEncoderTarget:
    """The text encoders' weights, trained where they are: the model that is given changes.

    Prompts are encoded at every step, and the null text too, so both branches of Eq. 5 keep a graph. Files name a
    tensor by its encoder's place in the pipeline, as in `text_encoder.text_model.final_layer_norm.weight`.
    """

    policy = GradientPolicy(positive=True, negative=True, text=True)

    def __init__(self, model: PipelineModel):
        self._model, self._digest = model, weights_digest(model.encoders)
        self.named: dict[str, Parameter] = {}
        for encoder in model.encoders:
            make_trainable(encoder)
            name = component_name(model, encoder)
            self.named |= {f"{name}.{own}": parameter for own, parameter in encoder.named_parameters()}

    def parameters(self) -> list[Parameter]:
        """All of them; what the pipeline does not read, such as a last layer that is skipped, gets no gradient."""
        return list(self.named.values())

    def fingerprint(self) -> list[Tensor]:
        """The digest of the weights that learning started from."""
        return [self._digest]

    def guidance_scale(self, configured: float) -> float:
        return configured

    def negative(self) -> Conditioning:
        """What the pipeline takes without a negative prompt, by the encoders as they are now, for one prompt."""
        return self._model.null_conditioning()

    def condition(self, model: DiffusionModel, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        return model.encode_prompt(prompts), self.negative().expand(len(prompts))

    def artifact(self, metadata: dict[str, str]) -> Weights:
        return Weights.of(self.named, metadata)
