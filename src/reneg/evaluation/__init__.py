"""Comparing negative embeddings on the same prompts and the same noises."""

from reneg.evaluation.runner import evaluate
from reneg.evaluation.tables import print_table

__all__ = ["evaluate", "print_table"]
