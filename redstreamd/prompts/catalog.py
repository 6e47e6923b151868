"""All the prompts there are."""

from __future__ import annotations

from redstreamd.prompts import design, diagnosis, work
from redstreamd.prompts.definition import Prompts

PROMPTS = Prompts((*diagnosis.PROMPTS, *design.PROMPTS, *work.PROMPTS))
