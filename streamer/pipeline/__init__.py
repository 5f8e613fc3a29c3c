"""extract -> reduce -> index: the one place where the rooms are wired together.

`configured` turns a config into what the rooms want to know, `extract` is the stage that brings a store up to date with
its source, `job` runs the stages in one process, within one plan and under one lock.
"""

from streamer.pipeline.job import STAGES, run

__all__ = ["STAGES", "run"]
