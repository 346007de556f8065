"""What learning will need of a GPU, from configurations alone: no weight is loaded or downloaded."""

from reneg.planning.plan import Plan, plan

__all__ = ["Plan", "plan"]
