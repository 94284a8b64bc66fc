"""Prometheus metrics at `/metrics`: the current figures of store, worker and machine."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from backend import __version__
from backend.core.units import GIB
from backend.jobs.job import JobState
from backend.video_generator import VideoGenerator

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render_metrics(generator: VideoGenerator) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StudioCollector(generator))
    return generate_latest(registry)


class StudioCollector(Collector):
    def __init__(self, generator: VideoGenerator) -> None:
        self._generator = generator

    def collect(self) -> Iterator[Metric]:
        generator, sample = self._generator, self._generator.monitor.sample()
        yield _gauge("studio_info", "1, with the version", 1, version=__version__)
        yield _gauge("studio_worker_alive", "Whether jobs can be taken", generator.alive)
        yield _gauge("studio_queue_paused", "Whether the queue is paused", generator.queue_paused)
        jobs = GaugeMetricFamily("studio_jobs", "Jobs in the history, by state", labels=["state"])
        counts = generator.counts()
        for state in JobState:
            jobs.add_metric([state.value], counts.get(state, 0))
        yield jobs
        ended = CounterMetricFamily("studio_renders", "Renders that ended", labels=["model", "outcome"])
        usual = GaugeMetricFamily("studio_render_seconds_median", "Of the last 50 videos", labels=["model"])
        for stats in generator.model_stats():
            ended.add_metric([stats.model, "succeeded"], stats.succeeded)
            ended.add_metric([stats.model, "failed"], stats.failed)
            ended.add_metric([stats.model, "cancelled"], stats.cancelled)
            if stats.median_s is not None:
                usual.add_metric([stats.model], stats.median_s)
        yield from (ended, usual)
        yield _gauge("studio_running_fraction", "Of the running job that is done", _running_fraction(generator))
        yield _gauge("studio_disk_free_bytes", "On the disk of the data folder", sample.disk_free_gib * GIB)
        yield _gauge("studio_ram_used_bytes", "By everything on this machine", sample.ram_used_gib * GIB)
        yield _gauge("studio_cpu_percent", "Of all cores", sample.cpu_percent)
        if sample.vram_used_gib is not None:
            yield _gauge("studio_vram_used_bytes", "By everything on the GPU", sample.vram_used_gib * GIB)
        if sample.gpu_percent is not None:
            yield _gauge("studio_gpu_percent", "Of the GPU's time", sample.gpu_percent)


def _gauge(name: str, help_text: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=list(labels))
    family.add_metric(list(labels.values()), float(value))
    return family


def _running_fraction(generator: VideoGenerator) -> float:
    running = [job for job in generator.active(limit=1) if job.state is JobState.RUNNING]
    return running[0].progress.fraction if running and running[0].progress else 0.0
