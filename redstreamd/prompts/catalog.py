"""The registry of all prompts."""

from __future__ import annotations

from redstreamd.prompts import design_stream, diagnosis, drain_queue
from redstreamd.prompts.definition import PromptRegistry

PROMPTS = PromptRegistry((*diagnosis.PROMPTS, *design_stream.PROMPTS, *drain_queue.PROMPTS))
