"""All the prompts there are."""

from __future__ import annotations

from redstreamd.prompts import design, diagnosis, drain_queue
from redstreamd.prompts.definition import Prompts

PROMPTS = Prompts((*diagnosis.PROMPTS, *design.PROMPTS, *drain_queue.PROMPTS))
