"""System: hardware, load over the last half hour, and the results of jobs."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from backend.core.units import GIB
from backend.system.monitoring import Sample
from ui.studio import header, studio
from ui.words import duration, size


def meters() -> None:
    history = studio().monitor.history()
    now = studio().monitor.sample()
    gib = "{:.1f} GiB".format
    with st.container(horizontal=True, key="meters"):
        if now.vram_total_gib:
            meter("GPU", f"{now.gpu_percent or 0:.0f} %", history, lambda s: s.gpu_percent, "busy")
            used = now.vram_used_gib or 0.0
            meter("VRAM", gib(used), history, lambda s: s.vram_used_gib, f"of {gib(now.vram_total_gib)}")
        meter("CPU", f"{now.cpu_percent:.0f} %", history, lambda s: s.cpu_percent, f"{studio().machine.cores} cores")
        meter("Memory", gib(now.ram_used_gib), history, lambda s: s.ram_used_gib, f"of {gib(now.ram_total_gib)}")
        free, total = (size(gibibytes * GIB) for gibibytes in (now.disk_free_gib, now.disk_total_gib))
        meter("Disk free", free, history, lambda s: s.disk_free_gib, f"of {total}")
    if not now.vram_total_gib:
        st.caption(":material/info: No NVIDIA GPU found. Videos render on the CPU.")


def meter(label: str, value: str, history: list[Sample], read: Callable[[Sample], float | None], of: str) -> None:
    line = [round(read(sample) or 0.0, 2) for sample in history]
    with st.container(key=f"meter_{label.lower().replace(' ', '_')}"):
        st.metric(
            label,
            value,
            chart_data=line if len(line) > 1 else None,
            chart_type="area",
            border=True,
            delta=of,
            delta_color="primary",
            delta_arrow="off",
        )


def jobs() -> None:
    stats = studio().model_stats()
    st.header("Jobs")
    if not stats:
        st.caption("No job has ended yet.")
        return
    good, bad = sum(t.succeeded for t in stats), sum(t.failed for t in stats)
    with st.container(horizontal=True, key="job_counts"):
        st.metric("Done", good, border=True)
        st.metric("Failed", bad, border=True)
        st.metric("Success rate", f"{good / (good + bad):.0%}", border=True)
    titles = {spec.id: spec.title for spec in studio().models()}
    rows = [
        {
            "Model": titles.get(t.model, t.model),
            "Done": t.succeeded,
            "Failed": t.failed,
            "Median time per job": duration(t.median_s) if t.median_s is not None else "",
        }
        for t in stats
    ]
    st.dataframe(rows, hide_index=True, width="stretch")


def diagnosis() -> None:
    st.header("Diagnosis")
    if not st.button("Run the checks", icon=":material/stethoscope:", key="run_checks"):
        st.caption("Python, packages, GPU, memory, disk, video encoder, folders, models.")
        return
    from backend.doctor import run_checks

    icons = {"ok": ":material/check_circle:", "warning": ":material/warning:", "failed": ":material/error:"}
    with st.spinner("Checking"):
        found = run_checks(studio().settings)
    for check in found:
        st.markdown(f"{icons[check.status]} **{check.name}** {check.detail}  \n{check.way_out}")


header("System", "Hardware, load and results.")
st.fragment(meters, run_every=3.0)()
st.fragment(jobs, run_every=10.0)()
diagnosis()
