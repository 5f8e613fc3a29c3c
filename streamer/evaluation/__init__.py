"""How good the answers are: recall against exact search, and precision by label beside two baselines.

Every photo asked for is left out of its own answer.
"""

from streamer.evaluation.evaluate import evaluate
from streamer.evaluation.measures import Evaluation, Quality, Shown, expected_by_chance, precision

__all__ = ["Evaluation", "Quality", "Shown", "evaluate", "expected_by_chance", "precision"]
