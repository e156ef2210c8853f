"""What the service has done, in the text format of Prometheus."""

from __future__ import annotations

from .jobs import JobQueue

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(queue: JobQueue, uploaded_bytes: int) -> str:
    """Returns counters and gauges of the service, in bytes and seconds."""
    text = _metric("jobs_total", "counter", "Jobs that have ended or were refused.", queue.counts, "outcome")
    text += _metric("jobs", "gauge", "Jobs that have not ended.", queue.unfinished(), "status")
    text += _metric("run_seconds_total", "counter", "Time for which videos were worked on.", {"": queue.run_seconds})
    return text + _metric("uploaded_bytes_total", "counter", "Of the videos received.", {"": uploaded_bytes})


def _metric(name: str, kind: str, text: str, values: dict[str, int] | dict[str, float], label: str = "") -> str:
    lines = [f"# HELP re2tal_{name} {text}", f"# TYPE re2tal_{name} {kind}"]
    lines += [
        f're2tal_{name}{{{label}="{which}"}} {value}' if label else f"re2tal_{name} {value}"
        for which, value in values.items()
    ]
    return "\n".join(lines) + "\n"
