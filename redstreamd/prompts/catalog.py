"""All the prompts there are."""

from __future__ import annotations

from redstreamd.prompts import design_stream, diagnosis, drain_queue
from redstreamd.prompts.definition import Prompts

PROMPTS = Prompts((*diagnosis.PROMPTS, *design_stream.PROMPTS, *drain_queue.PROMPTS))
