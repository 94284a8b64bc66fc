"""The page of what was measured, docs/performance.md, from benchmarks/results.

python -m benchmarks.page [--results FOLDER]

With `--results` it is made from another folder, such as benchmarks/results/small, and printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backend.core.config import ROOT
from benchmarks.record import RESULTS

PAGE = ROOT / "docs" / "performance.md"

HEAD = """# Performance

Every figure here was measured, or where it says so counted, by a script in `benchmarks/` and stands in
`benchmarks/results/` with machine, versions and command; this page is made from those files
(`python -m benchmarks.page`). Seconds are of the machine named; what carries over to another one are the ratios, each
of two things measured in turns in one process.
"""

PRESETS = """## Presets, on the trained Tiny model

`exact` computes every step. `balanced` leaves guidance out below the strongest three fifths of the noise and evaluates
the transformer at one step in three after the first quarter of the way; between two evaluations the velocity is
extrapolated. `turbo` guides in the stronger half, evaluates every second step after a seventh of the way, and every
fifth after a third of it. On a GPU both also keep the matrices of large transformers in eight bits, which a CPU only
imitates. Pictures are compared with those of `exact` with the same seed; what another seed changes is the yardstick.
What a video shows is said by the judge of [SkyReels V2 Tiny](tiny.md).

Beside them the stock pipeline makes the same videos, and makes them with cache-dit, by the fixed masks *medium* and
*fast* of its authors with their extrapolation (TaylorSeer); pictures are compared with those of the stock pipeline
alone. The forwards that cache-dit spares still run one block of six. With more of the model evaluated than by
`balanced`, *medium* keeps more of the video; with as much, *fast* keeps far less. What all this does to videos of the
released models was not measured: there are no weights here.
"""

WHOLE = """## A whole job, on a CPU

From submit to the published MP4 of 64 frames, enlarged to 960x540, with Tiny: beside the calls of the stock text
encoder, transformer and VAE that this takes and nothing else, and beside the stock diffusion-forcing pipeline, which
neither enlarges nor writes its frames. The targets were at most 1.10 of the bare calls and 0.8 of the stock pipeline.
How much there is to gain depends on how well the stock libraries suit the processor: before decoding was made quicker
again, it was 0.80 and 0.80 on an AMD EPYC (2026-11-29), and 0.81 and 0.79 on another Intel Xeon (2026-11-27).
"""

BUSY = """## Beside other programs, on a CPU

A job on Tiny while endless loops compute beside it, and alone. Threads that wait for one another sleep where others
compute (`backend/diffusion/busy.py`); without that they spin. The fair share is what as many threads as torch has get
among all that compute. The targets were at most 1.5 of the time by the fair share, and alone at most 1.03 of the time
without.
"""

PROMOTE = """## Drafts, on a CPU

A draft of a video with Tiny and its promotion, beside the same video made in one go: same frames, in turns, with the
model loaded. The preview is what it takes to decode, encode and publish the draft. The target was at most 1.03 of the
video in one go, without the preview.
"""

KERNELS = """## Kernels on a CPU

What the kernels of `backend/diffusion/cpu.py` gain beside those of torch: matrices by oneDNN, convolutions by planes
with the channels of a pixel together, fewer passes for norms, modulation and position embedding. The last column is
how far the two answers are apart, of the largest number in them.
"""

OVERHEAD = """## Beside the transformer

What the denoising loop costs beside the calls that it makes, ours and the stock pipeline's. The target was 3 % at most,
and less than the stock's.
"""

ERRORS = """## Errors of half precision

How far transformers of the released widths in bfloat16 are from float32, with random weights of which a few channels
are strong: the stock class, ours, ours compiled, and with matrices in eight bits, which only the presets take that
trade. On a CPU, where what is rounded is the same as on a GPU, and the order of sums is not. The target was 1.1 of the
stock class for what counts as exact.
"""

PEAKS = """## Memory on a GPU

The memory that activations take beside the weights, beside the forecast by which models are placed
(`backend/core/placement.py`). Counted, not run: tensors without contents went through the real classes at the
released shapes. What an allocator rounds up is not in it. The target was 10 %.
"""

LENGTH = """## Memory and length

The peak of the whole studio's memory while it makes a video of few and of many windows. The target was a tenth at most
between them.
"""

SERVER = """## Beside the videos

What the studio, in a process of its own, takes to answer on this machine: a job submitted and committed, a list out
of 10,000 jobs, and pages that are open on Create while a test pattern renders: up to four look every second,
more of them less often, so that all together poll four times a second. The pages are clients that speak Streamlit's
protocol; what a browser itself needs is not in it. The targets were 50 ms a submit, 100 ms a list, and a tenth for
25 pages. On the shared machine that this ran on a video alone takes now more, now less by more than a tenth, as the
last row shows, so the tenth is not proven by it.
"""

GPU = """## Parts, on an H100 or H200

`python -m benchmarks.gpu` measures in minutes, with random weights of the released shapes at 65 frames of 1280x720:
the matrix product and every attention kernel that is installed, the VAE, and forwards of the stock class, ours, ours
compiled, and with matrices in eight bits, with memory and error of each. With `--within SECONDS` the rows that say most
are measured first, and what is still missing is named here. `--small` runs the same on a CPU in a minute, and the test
suite does.
"""

VIDEOS = """## Whole videos, on an H100 or H200

`python -m benchmarks.videos` makes whole videos of 14B and 1.3B with random weights, from submit to the MP4, by every
preset and with a LoRA in four steps, beside the stock pipelines as they are, compiled, and with cache-dit: text to
video, and diffusion forcing with all frames at once, block after block and in two windows. The targets were, beside the
stock pipeline at 65 frames of 1280x720: `exact` 1.4 times as fast for text to video, 1.5 times for diffusion forcing,
2.5 times block after block; `balanced` 3.5 times; 14B with a LoRA in four steps within 30 s, 1.3B within 10 s; stages
beside denoising 5 % of `exact`; `balanced` with 14B within 25 GB.
"""

UNMEASURED = """**Not yet measured.** On an H100 (torch 2.11) only the training of Tiny was run so far, see
[SkyReels V2 Tiny](tiny.md). So nothing is claimed of the speed of 1.3B and 14B on a GPU, of compiled blocks, of
matrices in eight bits, of distilled LoRAs, or of other programs beside this one. By arithmetic alone, 65 frames of
1280x720 take 4.6 PFLOP a forward with 14B and 0.85 with 1.3B, and 30 steps with guidance are 60 forwards: were all of
it one large matrix product at 790 TFLOP/s, 350 and 65 seconds.
"""


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(head), ["---"] * len(list(head)), *[[str(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def read(name: str, folder: Path | None = None) -> tuple[dict[str, Any], str] | None:
    """The results of a benchmark, and lines about where they come from and which rows are missing; None if it was never
    run.
    """
    file = (folder or RESULTS) / f"{name}.json"
    if not file.exists():
        return None
    recorded = json.loads(file.read_text())
    versions = ", ".join(f"{package} {number}" for package, number in recorded["versions"].items())
    origin = f"`{recorded['command']}`, {recorded['date']}, {recorded['machine']['device']}; {versions}.\n"
    missing = ", ".join(f"`{row}`" for row in recorded.get("missing", []))
    return recorded["results"], origin + (f"\n**Still missing:** {missing}.\n" if missing else "")


def presets(found: dict[str, Any]) -> str:
    rows = []
    for name, one in found.items():
        if isinstance(one, dict):
            shown = [f"{100 * one['right'][question]:.0f} %" for question in ("kind", "colour", "motion", "time")]
            likeness = (f"{one['psnr_db']:.1f} dB", f"{one['ssim']:.3f}") if "ssim" in one else ("", "")
            median = f"{one['median_s']:.1f} s" if "median_s" in one else ""
            rows.append((name, one["steps"], one["calls"], median, *likeness, *shown))
    head = ("preset", "steps", "forwards", "median", "PSNR", "SSIM", "subject", "colour", "motion", "time of day")
    return f"Of {found['videos']} videos:\n\n" + table(head, rows)


def whole(found: dict[str, Any]) -> str:
    median, ratio = found["median_s"], found["ratio"]
    rows = [
        ("the studio", f"{median['studio']:.1f} s", ""),
        ("bare calls", f"{median['bare']:.1f} s", f"{ratio['to_bare']:.2f}"),
        ("stock pipeline", f"{median['stock']:.1f} s", f"{ratio['to_stock']:.2f}"),
    ]
    return table(("", "median", "the studio takes of it"), rows)


def busy(found: dict[str, Any]) -> str:
    ratio, beside = found["ratio"], f"beside {found['beside']} endless loops"
    rows = [
        ("alone", f"{found['alone_s']:.1f} s", f"{ratio['alone_to_without']:.2f} of the time without"),
        (
            beside,
            f"{found['busy_s']:.1f} s",
            f"{ratio['to_fair_share']:.2f} of {found['fair_s']:.1f} s, the fair share",
        ),
        (f"{beside}, spinning", f"{found['busy_without_s']:.1f} s", ""),
    ]
    return table(("", "median", ""), rows)


def promote(found: dict[str, Any]) -> str:
    rows = []
    for preset, one in found["presets"].items():
        median, ratio = one["median_s"], one["ratio"]
        seconds = [f"{median[part]:.1f} s" for part in ("whole", "draft", "preview", "rest")]
        rows.append((preset, *seconds, f"{ratio['without_preview']:.3f}", f"{ratio['with_preview']:.3f}"))
    shape = f"{found['num_frames']} frames of {found['resolution']}, a draft of {found['draft_steps']} of"
    head = ("preset", "in one go", "draft", "its preview", "promotion", "both, without preview", "with it")
    return f"{shape} {found['num_inference_steps']} steps:\n\n" + table(head, rows)


def kernels(found: dict[str, Any]) -> str:
    rows = [
        (what, f"{one['stock_s']} s", f"{one['quicker_s']} s", one["times_as_fast"], one["largest_difference"])
        for what, one in found.items()
    ]
    return table(("", "stock", "ours", "times as fast", "apart"), rows)


def overhead(found: dict[str, Any]) -> str:
    rows = [
        (way, f"{both['ours']['overhead_percent']} %", f"{both['stock']['overhead_percent']} %")
        for way, both in found.items()
    ]
    return table(("diffusion forcing", "ours", "stock"), rows)


def errors(found: dict[str, Any]) -> str:
    rows = [
        (model, way, f"{one['one_call']:.2%}", f"{one['after_steps']:.2%}", f"{one['of_stock']:.2f}")
        for model, ways in found.items()
        for way, one in ways.items()
    ]
    return table(("two blocks of", "", "of one call", "after four steps", "of the stock class's"), rows)


def peaks(found: dict[str, Any]) -> str:
    rows = [(what, one["gib"], one["forecast_gib"], f"{one['ratio']:.3f}") for what, one in found.items()]
    return table(("", "GiB", "forecast", "ratio"), rows)


def memory(found: dict[str, Any]) -> str:
    rows = [(video["windows"], video["frames"], f"{video['peak_mib']:.0f} MiB") for video in found["videos"]]
    return table(("windows", "frames", "peak"), rows)


def server(found: dict[str, Any]) -> str:
    def words(one: dict[str, float]) -> tuple[str, str]:
        return f"{one['median_ms']} ms", f"{one['p99_ms']} ms"

    answers = [("a job submitted", *words(found["submit"]))]
    answers += [(what, *words(one)) for what, one in found["lists"].items() if isinstance(one, dict)]
    alone = found["tabs"]["0"]["video_s"]
    pages = [
        (
            count,
            f"{one['video_s']} s",
            f"{one['video_s'] / alone:.2f}",
            one["polls"],
            f"{one['median_ms']} ms",
            f"{one['p95_ms']} ms",
        )
        for count, one in found["tabs"].items()
        if one.get("polls")
    ]
    head = ("pages", "the video", "of one without pages", "looks", "median", "95 of 100 within")
    return table(("answer", "median", "99 of 100 within"), answers) + "\n" + table(head, pages)


def videos(found: dict[str, Any]) -> str:
    """A table of each model, mode and shape; a way that did not work has its reason instead of figures."""
    head = ("way", "forwards", "video", "times as fast", "beside denoising", "memory", "attention, blocks, matrices")
    tables = []
    for case, ways in found.items():
        rows = []
        for way, one in ways.items():
            if isinstance(one, str):
                rows.append((way, "", "", "", "", "", one))
                continue
            made = one.get("runtime", {})
            runtime = ", ".join(made[what] for what in ("attention", "kernels", "matrices") if what in made)
            memory = f"{one['whole_gib']:.1f} GiB" if "whole_gib" in one else ""
            beside = f"{100 * one['beside_denoising']:.1f} %"
            rows.append(
                (way, one["forwards"], f"{one['whole_s']:.1f} s", one.get("times_as_fast", ""), beside, memory, runtime)
            )
        tables.append(f"{case}:\n\n" + table(head, rows))
    return "\n".join(tables)


def gpu(found: dict[str, Any]) -> str:
    """The results as they stand: their words are those of the script."""
    return "```json\n" + json.dumps(found, indent=1) + "\n```\n"


SECTIONS = (
    (WHOLE, whole),
    (PRESETS, presets),
    (BUSY, busy),
    (PROMOTE, promote),
    (KERNELS, kernels),
    (OVERHEAD, overhead),
    (ERRORS, errors),
    (PEAKS, peaks),
    (LENGTH, memory),
    (SERVER, server),
    (GPU, gpu),
    (VIDEOS, videos),
)


def page(folder: Path | None = None) -> str:
    parts = [HEAD]
    for text, section in SECTIONS:
        found = read(section.__name__, folder)
        unmeasured = UNMEASURED if section is videos else "**Not yet measured.**\n"
        parts += [text, unmeasured] if found is None else [text, section(found[0]), found[1]]
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="made from this folder, and printed")
    chosen = parser.parse_args().results
    if chosen:
        print(page(chosen))
    else:
        PAGE.write_text(page(), encoding="utf-8")
