"""When pydantic builds the SDK's models: there are some 500, and a handshake needs ten of them.

A model is a class with its fields, and what pydantic builds of these: its validator and its serializer, half
of the time that a model takes. Left out at first, they are built when the model is first used, or by
`build_models`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel


@contextmanager
def models_built_later() -> Iterator[None]:
    """Let models whose classes are made in the block be built when they are first used (``defer_build``)."""
    # The configuration that all models inherit when their class is made.
    BaseModel.model_config["defer_build"] = True
    try:
        yield
    finally:
        del BaseModel.model_config["defer_build"]


def build_models() -> None:
    """Build all models that are not built. On any thread, also while others use the models."""
    for model in _models(BaseModel):
        if not model.__pydantic_complete__:
            model.model_rebuild()


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in model.__subclasses__():
        yield each
        yield from _models(each)
