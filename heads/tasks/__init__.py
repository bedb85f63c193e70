"""The five tasks: each one file with its head, its loss and its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heads.tasks.base import Describe, Fitted, Located, Task, TaskError
from heads.tasks.correspondence import Correspondence
from heads.tasks.fine_grained import FineGrained
from heads.tasks.recognition import Recognition
from heads.tasks.retrieval import Retrieval
from heads.tasks.segmentation import Segmentation

__all__ = ["TASKS", "Describe", "Fitted", "Located", "Task", "TaskError"]

TASKS: Mapping[str, type[Task[Any, Any]]] = {
    task.name: task for task in (Correspondence, Retrieval, FineGrained, Recognition, Segmentation)
}
"""By the name that stands in a configuration."""
