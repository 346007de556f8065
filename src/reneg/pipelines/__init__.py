"""The arguments that apply a negative embedding in each diffusers pipeline class."""

from reneg.pipelines.arguments import encode_null, find_row, pipeline_arguments, warn_without_guidance
from reneg.pipelines.refusals import REFUSED
from reneg.pipelines.table import PIPELINES, PipelineRow

__all__ = [
    "PIPELINES",
    "REFUSED",
    "PipelineRow",
    "encode_null",
    "find_row",
    "pipeline_arguments",
    "warn_without_guidance",
]
