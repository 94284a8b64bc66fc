"""Compiled blocks: the same output, one compilation for all of them, and no harm where it fails."""

import functools
import json
import logging

import pytest
import torch
from safetensors.torch import save_file
from torch._dynamo.backends.debugging import eager

from backend.core.schema import LoraUse
from backend.diffusion.autotune import STARTED, autotune_cache
from backend.diffusion.compiled import COMPILED, STOCK, benchmark, can_compile, compiled, first_block, is_faster
from backend.diffusion.interrupt import interruptible
from backend.diffusion.loras import LoadedLora, apply_loras
from backend.library.loras import inspect
from tests.lora_files import DIM, factors, write_lora

TEXT = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def predict(components, frames: int, rows: int = 8):
    latents = torch.randn(1, 16, frames, rows, 12, generator=torch.Generator().manual_seed(2))
    levels = torch.full((1, frames), 500)
    with torch.no_grad():
        return components.transformer(latents, levels, TEXT, enable_diffusion_forcing=True, fps=[1], return_dict=False)[
            0
        ]


def test_blocks_are_compiled_once_for_all_of_them_and_for_all_sizes(components):
    made = []

    def counting(graph, inputs):
        made.append(graph)
        return eager(graph, inputs)

    sizes = [(5, 8), (7, 8), (9, 6), (5, 8)]
    wanted = [predict(components["df"], *size) for size in sizes]
    with compiled(components["df"].transformer, counting):
        found = [predict(components["df"], *size) for size in sizes]
        graphs = len(made)
        predict(components["df"], 11, 10)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(wanted, found, strict=True))
    assert 1 <= graphs <= 2  # of two blocks and three sizes
    assert len(made) == graphs


def test_past_the_limit_of_torch_blocks_run_as_they_are_and_the_log_says_so(components, caplog):
    assert torch._dynamo.config.recompile_limit >= 64
    wanted = [predict(components["df"], frames) for frames in (5, 1)]
    with (
        torch._dynamo.config.patch(recompile_limit=1),
        caplog.at_level(logging.WARNING),
        compiled(components["df"].transformer, "eager"),
    ):
        found = [predict(components["df"], frames) for frames in (5, 1)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(wanted, found, strict=True))
    assert "not compiled" in caplog.text


def test_afterwards_the_blocks_are_as_they_were(components):
    transformer = components["df"].transformer
    wanted = predict(components["df"], 5)
    with compiled(transformer, "eager"):
        assert all("forward" in vars(block) for block in transformer.blocks)
    assert not any("forward" in vars(block) for block in transformer.blocks)
    assert torch.equal(predict(components["df"], 5), wanted)


def test_what_cannot_be_compiled_runs_as_it_is_and_the_log_says_so(components, caplog):
    tries = []

    def broken(graph, inputs):
        tries.append(graph)
        raise RuntimeError("there is no compiler on this machine")

    wanted = predict(components["df"], 5)
    with caplog.at_level(logging.WARNING), compiled(components["df"].transformer, broken):
        assert torch.equal(predict(components["df"], 5), wanted)
        predict(components["df"], 7)
    assert len(tries) == 1
    assert "not compiled" in caplog.text
    assert "no compiler on this machine" in caplog.text


def test_the_checks_before_each_block_stay(components):
    checks = []
    with compiled(components["df"].transformer, "eager"), interruptible(components["df"], lambda: checks.append(1)):
        predict(components["df"], 5)
    assert len(checks) == len(components["df"].transformer.blocks)


CPU = torch.device("cpu")


def test_a_lora_that_comes_or_goes_is_noticed_and_its_strength_needs_no_further_compiling(components, tmp_path):
    made = []

    def counting(graph, inputs):
        made.append(graph)
        return eager(graph, inputs)

    use = LoraUse(name="a", strength=[0.7, -0.2])
    lora = LoadedLora(inspect(write_lora(tmp_path / "a.safetensors", size=0.3)), use, components["df"])
    graphs = []
    for loras, window in (([], 0), ([lora], 0), ([lora], 1), ([], 0), ([lora], 0)):
        with apply_loras(loras, lambda window=window: window):
            wanted = predict(components["df"], 5)
            with compiled(components["df"].transformer, counting):
                torch.testing.assert_close(predict(components["df"], 5), wanted, atol=1e-5, rtol=1e-5)
        graphs.append(len(made))
    assert graphs[0] < graphs[1] == graphs[4]


@pytest.mark.parametrize(("kind", "magnitude"), [("LoHa", None), ("LoKr", "rows"), ("LoRA", "columns")])
def test_every_kind_of_lora_runs_compiled(components, tmp_path, monkeypatch, kind, magnitude):
    failures: list[Exception] = []
    monkeypatch.setattr("backend.diffusion.compiled._log_failure", failures.append)
    tables = {f"diffusion_model.blocks.{number}.diff_m": torch.full((1, 6, DIM), 0.3) for number in range(2)}
    save_file(factors(kind, 0.3, magnitude) | tables, tmp_path / "a.safetensors")
    lora = LoadedLora(inspect(tmp_path / "a.safetensors"), LoraUse(name="a"), components["df"])
    plain = predict(components["df"], 5)
    with apply_loras([lora], lambda: 0):
        wanted = predict(components["df"], 5)
        with compiled(components["df"].transformer, eager):
            torch.testing.assert_close(predict(components["df"], 5), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, wanted, atol=1e-2)
    assert failures == []


def test_the_first_block_is_called_with_what_the_transformer_gives_it(components):
    model, ran = components["df"].transformer, []
    hooks = [block.register_forward_hook(lambda *seen: ran.append(seen[2])) for block in model.blocks]
    wanted = predict(components["df"], 5)
    after_first = ran[0]
    ran.clear()
    plain, fast = first_block([model], lambda: predict(components["df"], 5))
    for hook in hooks:
        hook.remove()
    assert ran == []  # it was stopped before
    assert torch.equal(plain(), after_first)
    assert callable(fast)
    assert torch.equal(predict(components["df"], 5), wanted)


@pytest.mark.parametrize(
    ("plain_s", "fast_s", "change", "expected"),
    [
        (0.02, 0.0, 0.0, COMPILED),
        (0.02, 0.0, 0.01, COMPILED),
        (0.02, 0.0, 0.05, STOCK),
        (0.02, 0.0, float("nan"), STOCK),
        (0.0, 0.02, 0.0, STOCK),
        (0.02, 0.02, 0.0, STOCK),
    ],
)
def test_compiled_blocks_are_chosen_if_they_are_faster_and_equal(clock, plain_s, fast_s, change, expected):
    answer = torch.ones(100)
    assert (
        benchmark(clock.taking(plain_s, lambda: answer), clock.taking(fast_s, lambda: answer * (1 + change)), CPU)
        == expected
    )


def test_a_slow_moment_of_the_machine_falls_on_both(clock):
    plain, fast = (clock.taking(seconds, lambda: torch.ones(3)) for seconds in (0.02, 0.03))
    clock.slow_until = 1.2  # of five rounds of plain alone it would be most
    assert benchmark(plain, fast, CPU) == STOCK


def test_compiled_blocks_that_fail_in_the_benchmark_are_not_used(clock, caplog):
    def broken():
        raise OSError("the cache cannot be written")

    with caplog.at_level(logging.WARNING):
        assert benchmark(clock.taking(0.0, lambda: torch.ones(3)), broken, CPU) == STOCK
        assert not can_compile(broken)
    assert "the cache cannot be written" in caplog.text


def test_a_lack_of_memory_is_raised(clock):
    def broken():
        raise torch.OutOfMemoryError("CUDA out of memory")

    plain = clock.taking(0.0, lambda: torch.ones(3))
    for call in (functools.partial(benchmark, plain, broken, CPU), functools.partial(can_compile, broken)):
        with pytest.raises(torch.OutOfMemoryError):
            call()


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")


def test_a_benchmark_is_made_once_for_a_gpu_and_a_kind_of_transformer(components, tmp_path, gpu, clock):
    tries, file = [], tmp_path / "kernels.json"

    def fast():
        tries.append(1)
        return torch.ones(3)

    def faster(kind="df"):
        return is_faster(file, components[kind], clock.taking(0.02, lambda: torch.ones(3)), fast)

    assert faster()
    made = len(tries)
    assert faster()
    assert len(tries) == made
    assert faster("wan-t2v")
    assert len(tries) == 2 * made


def test_a_benchmark_that_crashes_the_process_twice_is_not_made_again(tmp_path):
    file, tries = tmp_path / "kernels.json", []

    class Killed(BaseException):
        pass

    def tune():
        tries.append(1)
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            autotune_cache(file, "a GPU", "safe", ("safe", "fast"), tune)
    assert autotune_cache(file, "a GPU", "safe", ("safe", "fast"), tune) == "safe"
    assert len(tries) == 2
    assert autotune_cache(file, "another", "safe", ("safe", "fast"), lambda: "fast") == "fast"


def test_where_nothing_can_be_written_the_benchmark_is_made_each_time(tmp_path, caplog):
    (tmp_path / "kernels.json").mkdir()
    (tmp_path / "file").touch()
    for file in (tmp_path / "kernels.json", tmp_path / "file" / "kernels.json"):
        assert autotune_cache(file, "a GPU", "safe", ("safe", "fast"), lambda: "fast") == "fast"
    assert "cannot be written" in caplog.text


def test_a_benchmark_that_was_ended_once_is_made_again(tmp_path):
    file, tries = tmp_path / "kernels.json", []

    def tune():
        tries.append(1)
        return "fast"

    autotune_cache(file, "a GPU", "safe", ("safe", "fast"), tune)
    file.write_text(json.dumps({"a GPU": STARTED}))
    for _ in range(2):
        assert autotune_cache(file, "a GPU", "safe", ("safe", "fast"), tune) == "fast"
    assert len(tries) == 2


def test_a_missing_compiler_is_found_before_the_render(components):
    def broken(graph, inputs):
        raise RuntimeError("there is no compiler on this machine")

    def call(backend):
        return torch.compile(lambda x: x + 1, backend=backend)

    assert can_compile(lambda: call("eager")(torch.ones(3)))
    assert not can_compile(lambda: call(broken)(torch.ones(3)))
