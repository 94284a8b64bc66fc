"""What is measured on a GPU runs small on a CPU."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from argparse import Namespace

import pytest
import torch

from backend.core.config import ROOT
from backend.diffusion.transformer import Transformer
from benchmarks import errors, gpu, page, promote, videos
from benchmarks import record as recording
from benchmarks import rows as benchmark_rows

pytestmark = pytest.mark.timeout(900)  # what is measured is compiled, which takes minutes on a busy machine


@pytest.fixture(scope="module")
def measured():
    bench, results = gpu.make_bench(["14b"], small=True), {}
    for _ in benchmark_rows.measure_rows(gpu.rows(["14b"]), results, lambda row: gpu.PARTS[row[0]](bench, *row[1:])):
        gpu.complete(bench, results)
    return results


def test_kernels_are_timed_and_one_is_taken(measured):
    found = measured["attention"]["14b"]
    assert found["seconds"]["native"] > 0
    assert found["taken"] in found["seconds"]


def test_every_model_is_measured_in_every_way():
    ways = {(case, way) for part, case, way in (row for row in gpu.rows() if row[0] == "forward") if way != "torchao"}
    usual = {(case, way) for case in {case for case, _ in ways} for way in ("stock", "ours", "compiled")}
    assert {case for case, _ in ways} == {f"{model}, {mode}" for model in gpu.MODELS for mode in gpu.MODES}
    assert ways == usual | {(f"14b, {mode}", "eight bits") for mode in gpu.MODES}


def test_a_transformer_is_called_in_both_ways_and_agrees_with_float32(measured):
    assert set(measured["forward"]) == {"14b, text to video", "14b, diffusion forcing"}
    for found in measured["forward"].values():
        exact, rounded = ["stock", "ours", "compiled"], ["eight bits"]
        assert set(found["times_as_fast"]) == {*exact, *rounded}
        assert found["kernel"] in measured["attention"]["14b"]["seconds"]
        for way, times in found["times_as_fast"].items():
            assert times == pytest.approx(found["stock"]["seconds"] / found[way]["seconds"], rel=0.5)
            least, most = (1e-3, 0.1) if way in rounded else (0, 1e-5)
            assert least <= found[way]["error"] < most
            assert least <= found[way]["error_after_steps"] < most
        assert found["forecast_gib"] > 0


def test_the_work_of_a_forward_is_that_of_the_released_model():
    heads, head_dim, ffn_dim, _ = gpu.MODELS["14b"]
    assert gpu.flop((heads, head_dim, ffn_dim, 40), 61200) / 1e15 == pytest.approx(4.5594, rel=1e-3)


def test_the_text_encoder_is_timed(measured):
    assert measured["text"]["seconds"] > 0
    assert measured["text"]["weights_gib"] > 0


def test_the_vae_decodes_in_both_precisions(measured):
    assert set(measured["decode"]) == {"stock", "float32", "half"}
    assert all(found["seconds"] > 0 for found in measured["decode"].values())


def test_both_precisions_have_the_same_weights():
    """So that an error is one of the arithmetic."""
    size, device = gpu.SMALL_MODELS["14b"], torch.device("cpu")
    one, other = (gpu.build(Transformer, size, True, device, dtype) for dtype in (torch.float32, torch.bfloat16))
    for name, weight in one.named_parameters():
        assert torch.equal(weight, other.get_parameter(name).float()), name
    assert other.blocks[0].attn1.to_q.weight.dtype is torch.bfloat16
    assert other.blocks[0].scale_shift_table.dtype is torch.float32


def test_what_counts_as_exact_is_as_near_to_float32_as_the_stock_class():
    found = errors.measure({"14b": gpu.SMALL_MODELS["14b"]}, errors.SMALL_SHAPE, backend="eager")
    assert list(found) == ["14b, text to video", "14b, diffusion forcing"]
    for ways in found.values():
        assert 0 < ways["stock"]["one_call"] < 0.02  # bfloat16's own, not that of other weights
        assert ways["ours"]["of_stock"] == ways["stock"]["of_stock"] == 1
        assert ways["compiled"]["of_stock"] <= 1.1
        assert 1 < ways["eight bits"]["of_stock"] < 3
    assert "| 14b, text to video | eight bits |" in page.errors(found)


CASES = [videos.Case("tiny", "tiny", mode, 10) for mode in ("text", "async", "long")]


@pytest.fixture(scope="module")
def whole_films():
    bench, results = videos.Bench(CASES, layers=1, small=True), {}
    for _ in benchmark_rows.measure_rows(videos.rows(CASES), results, bench.measure):
        videos.complete(results)
    bench.close()
    return results


def test_films_are_made_by_every_preset_and_beside_every_peer(whole_films):
    peers = ["stock", "stock, compiled", "cache-dit, medium", "cache-dit, fast"]
    presets = ["exact", "balanced", "turbo", "turbo, LoRA"]
    for mode, found in zip(("text", "async", "long"), whole_films.values(), strict=True):
        assert set(found) == {*(peers if mode == "text" else ["stock"]), *presets}
        forwards = {way: one["forwards"] for way, one in found.items()}
        assert forwards["exact"] == forwards["stock"] == {"text": 20, "async": 30, "long": 40}[mode]
        assert forwards["turbo, LoRA"] == {"text": 4, "async": 8, "long": 8}[mode]
        assert forwards["turbo"] < forwards["balanced"] < forwards["exact"]
        assert all(found["stock"]["forwards"] > forwards[way] for way in found if way.startswith("cache-dit"))
        assert all(one["times_as_fast"] > 0 for one in found.values())


def test_the_page_can_tell_of_them(whole_films):
    text = page.videos(whole_films | {"14b, text, b": {"stock": "CUDA out of memory"}})
    assert text.count("| exact | ") == 3
    assert "native, optimized, float32" in text
    assert "| stock |  |  |  |  |  | CUDA out of memory |" in text


def test_what_all_blocks_would_take_is_reckoned_from_some():
    case = videos.Case("14b", "b", "sync", None)
    taken = {"total_s": 12.0, "denoising_s": 10.0, "peak_gib": 12.0}
    found = videos.reckoned(taken, case, layers=4, blocks_gib=0.65)
    assert found["whole_s"] == 102
    assert found["beside_denoising"] == pytest.approx(2 / 102, abs=1e-4)
    assert found["whole_gib"] == pytest.approx(12 + 36 * 0.65)
    eight = videos.reckoned(taken | {"runtime": {"matrices": "float8"}}, case, layers=4, blocks_gib=0.65)
    assert eight["whole_gib"] == pytest.approx(12 + 18 * 0.65)


def test_the_page_of_figures_is_made_from_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
    assert "Not yet measured" in page.page() or page.read("videos")


def test_a_benchmark_that_was_never_run_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.page().count("Not yet measured") == len(page.SECTIONS)


class Clock:
    """A clock that stands still but for what `taking` adds."""

    now = 0.0

    def __call__(self):
        return self.now

    def taking(self, seconds, result=None):
        def measure(row):
            self.now += seconds if isinstance(seconds, (int, float)) else seconds[row[-1]]
            return {"seconds": 1.0} if result is None else result

        return measure


ROWS = [("a", "quick"), ("b", "slow"), ("c", "quick"), ("d", "slow"), ("e", "quick")]


def test_rows_end_within_the_time_and_the_first_ones_are_there():
    clock, results = Clock(), {}
    took = {"quick": 5.0, "slow": 12.0}
    done = list(benchmark_rows.measure_rows(ROWS, results, clock.taking(took), 30.0, clock, began=0.0))
    assert done == [None, ("a", "quick"), ("b", "slow"), ("c", "quick"), ("e", "quick")]  # d would end at 34
    assert clock.now == 27.0
    assert set(results) == {"a", "b", "c", "e"}


def test_the_time_counts_from_the_start_of_the_process():
    clock, results = Clock(), {}
    clock.now = 31.0  # the imports took that long
    assert list(benchmark_rows.measure_rows(ROWS, results, clock.taking(1.0), 30.0, clock, began=0.0)) == [None]
    assert benchmark_rows.BEGAN == sys.modules["benchmarks"].BEGAN


@pytest.mark.parametrize("row_s", [0.1, 1.0, 4.0, 9.0])
def test_the_gpu_script_ends_in_time_and_its_file_is_read_by_the_page(tmp_path, row_s):
    """`python -m benchmarks.gpu --small --within 30`, with rows that last `row_s` and twenty seconds of imports."""
    clock = Clock()
    clock.now = 20.0
    flags = Namespace(within=30.0, small=True, again=False, results=tmp_path)
    measure = clock.taking(row_s)
    benchmark_rows.measure_and_record("gpu", gpu.rows(), gpu.rows(), measure, lambda _: None, flags, clock, began=0.0)
    assert clock.now <= 40.0
    assert list(tmp_path.iterdir()) == [tmp_path / "gpu.json"]
    recorded = json.loads((tmp_path / "gpu.json").read_text())
    missing = recorded.get("missing", [])
    assert len(missing) == len(gpu.rows()) - min(len(gpu.rows()), round((clock.now - 20.0) / row_s))
    assert not missing or "matmul" not in missing
    text = page.page(tmp_path)
    assert "## Parts, on an H100 or H200" in text
    assert f"{recorded['date']}, {recorded['machine']['device']}" in text
    assert ("**Still missing:** " + ", ".join(f"`{row}`" for row in missing) in text) == bool(missing)


def test_the_most_valuable_rows_come_first():
    first = gpu.rows()[:3]
    case = "14b, text to video"
    assert first == [("matmul",), ("forward", case, "stock"), ("forward", case, "compiled")]
    cases = videos.cases_of(["14b", "1.3b"], ["b"], videos.MODES, None)
    assert videos.rows(cases)[:2] == [("14b, text, b", "stock"), ("14b, text, b", "exact")]
    assert videos.rows(cases)[-1] == ("1.3b, sync, b", "cache-dit, fast")


def run_rows(folder, measure, rows=ROWS, **flags):
    given = Namespace(**{"within": float("inf"), "small": False, "again": False, "results": folder} | flags)
    benchmark_rows.measure_and_record("gpu", rows, ROWS, measure, lambda _: None, given)
    return json.loads((folder / "gpu.json").read_text())


def test_an_interrupted_run_keeps_what_it_has_and_the_next_one_goes_on(tmp_path, capsys):
    measured_rows, interruptions = [], [ROWS[2]]

    def measure(row):
        if row in interruptions:
            interruptions.remove(row)
            raise KeyboardInterrupt
        measured_rows.append(row)
        return {"seconds": len(measured_rows)}

    with pytest.raises(KeyboardInterrupt):
        run_rows(tmp_path, measure)
    recorded = json.loads((tmp_path / "gpu.json").read_text())
    assert recorded["results"] == {"a": {"quick": {"seconds": 1}}, "b": {"slow": {"seconds": 2}}}
    assert recorded["missing"] == ["c: quick", "d: slow", "e: quick"]
    recorded = run_rows(tmp_path, measure, rows=ROWS[:4])
    assert measured_rows == [ROWS[0], ROWS[1], ROWS[2], ROWS[3]]
    assert recorded["missing"] == ["e: quick"]
    assert "missing" not in run_rows(tmp_path, measure)
    assert len(measured_rows) == 5
    run_rows(tmp_path, measure, again=True)
    assert len(measured_rows) == 10


def test_results_of_another_machine_or_version_are_not_continued(tmp_path):
    run_rows(tmp_path, Clock().taking(1.0))
    file = tmp_path / "gpu.json"
    recorded = json.loads(file.read_text())
    assert set(recording.kept_results("gpu", tmp_path)) == {"a", "b", "c", "d", "e"}
    for change in ({"versions": {"torch": "1.0"}}, {"machine": {"device": "another"}}, {"results": None}):
        file.write_text(json.dumps(recorded | change))
        assert recording.kept_results("gpu", tmp_path) == {}
    file.write_text("{")
    assert recording.kept_results("gpu", tmp_path) == {}


def test_a_row_that_fails_has_the_reason_and_is_measured_again(tmp_path):
    def fail(row):
        raise RuntimeError("CUDA out of memory.\nTried to")

    recorded = run_rows(tmp_path, fail)
    assert recorded["results"]["a"]["quick"] == "CUDA out of memory."
    assert run_rows(tmp_path, Clock().taking(1.0))["results"]["a"]["quick"] == {"seconds": 1.0}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    recording.record("gpu", {"a": 1}, folder=tmp_path, shown=False)
    before = (tmp_path / "gpu.json").read_bytes()
    monkeypatch.setattr(recording, "replace_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        recording.record("gpu", {"b": 1}, folder=tmp_path, shown=False)
    assert (tmp_path / "gpu.json").read_bytes() == before


# What a machine with torch, diffusers, transformers, accelerate, numpy and pydantic does not have.
NOT_BARE = "av cv2 streamlit fastapi starlette uvicorn playwright cache_dit pydantic_settings prometheus_client"


def test_the_gpu_scripts_import_no_package_that_a_bare_machine_lacks():
    code = """
import sys
import torch, diffusers, transformers
from diffusers import SkyReelsV2Pipeline
from transformers import UMT5EncoderModel
before = set(sys.modules)
import benchmarks.gpu, benchmarks.videos
print(sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(ast.literal_eval(done.stdout.strip()))
    assert "benchmarks" in imported
    assert not imported & set(NOT_BARE.split())


def test_the_renderer_alone_makes_the_video_where_the_studio_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "STUDIO_PACKAGES", ("av_is_not_here",))
    case = CASES[0]
    bench = videos.Bench([case], layers=1, small=True)
    try:
        found = {way: bench.measure((case.name, way)) for way in ("exact", "turbo, LoRA")}
    finally:
        bench.close()
    for one in found.values():
        assert one["made_by"] == "renderer alone"
        assert 0 < one["denoising_s"] < one["total_s"]
    assert (found["exact"]["forwards"], found["turbo, LoRA"]["forwards"]) == (20, 4)
    assert found["exact"]["runtime"]["matrices"] == "float32"
    assert "| exact |" in page.videos({case.name: found})


def test_earlier_files_are_still_read(tmp_path):
    """A file of version 0.2 has no list of missing rows."""
    earlier = {"matmul": {"side": 8192, "seconds": 0.1, "tflops": 790.0}}
    recording.record("gpu", earlier, folder=tmp_path, shown=False)
    assert "missing" not in json.loads((tmp_path / "gpu.json").read_text())
    assert '"tflops": 790.0' in page.page(tmp_path)
    assert "Still missing" not in page.page(tmp_path)


def test_draft_and_promotion_are_measured_beside_the_video_in_one_go(monkeypatch):
    monkeypatch.setattr(promote, "REQUEST", promote.REQUEST | {"model": "synthetic"})
    found = promote.measure(1, promote.SHORT)
    assert set(found["presets"]) == {"exact", "balanced"}
    for one in found["presets"].values():
        [parts] = one["rounds"]
        assert 0 < parts["preview"] < parts["draft"]
        assert one["ratio"]["with_preview"] > one["ratio"]["without_preview"] > 0
    assert "17 frames of 160x96, a draft of 3 of 10 steps" in page.promote(found)
