"""Generates docs/metrics.md from the definitions; `make generate` writes it, and a test compares it."""

from __future__ import annotations

from collections.abc import Iterator

from redstreamd.metrics.metric_definitions import METRICS, Metric, Subject

_HEAD = """\
# Metrics

Generated from `redstreamd/metrics/metric_definitions.py`. How to turn them on is in
[operations.md](operations.md), who may read them in [security.md](security.md).

What a server does not tell, and what is not known yet, has no line: rates need two samples of a stream, which
is sampled every few seconds while somebody asks. Streams and groups are bounded in number by the settings
`[metrics]`, those with most to do first. The page is at most 200 KiB; streams that do not fit are counted as
omitted."""


def as_markdown() -> str:
    """Return the reference: a table for each subject."""
    return "\n".join((_HEAD, *(line for subject in Subject for line in _table(subject)))) + "\n"


def _table(subject: Subject) -> Iterator[str]:
    yield f"\n## {subject.value}\n"
    yield "| name | type | labels | meaning |"
    yield "|---|---|---|---|"
    for metric in METRICS:
        if metric.subject is subject:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            yield f"| `{metric.name}` | {metric.type} | {labels} | {metric.help}{_buckets(metric)}. |"


def _buckets(metric: Metric) -> str:
    return (
        f"; buckets up to {', '.join(f'{bound:g}' for bound in metric.buckets)} s" if metric.buckets else ""
    )
