"""Training goes on where it was stopped, and processes that train together stay the same."""

from __future__ import annotations

import json
import os
import sys
import time
import types

import pytest
import torch
from torch import distributed, multiprocessing, nn

from training.tiny.run import Average, Budget, Run, by_step, first_alone, learning_rate


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3))


def some_loss(model, seed):
    inputs = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    return (model(inputs) - 1).square().mean()


def trained(folder, first, last):
    """The model after steps `first` to `last` of a run in `folder`."""
    model = small_model()
    run = Run(folder, model, 0.02, apart=("0.",))
    assert run.restore() == first
    average = Average(model, 0.9)
    average.load(run.averaged)
    for step in range(first, last):
        run.set_rate(learning_rate(step, step / 8, warmup=2))
        run.step(some_loss(model, step))
        average.update(model)
    run.save(last, average.weights)
    run.note(last, loss=0.123456)
    return model.state_dict()


def test_a_run_goes_on_bit_for_bit(tmp_path):
    whole = trained(tmp_path / "whole", 0, 8)
    trained(tmp_path / "parts", 0, 3)
    parts = trained(tmp_path / "parts", 3, 8)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not torch.equal(whole["2.weight"], small_model()[2].weight)
    lines = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 3, "loss": 0.1235}, {"step": 8, "loss": 0.1235}]


def test_training_lessens_the_loss(tmp_path):
    model = small_model()
    before = some_loss(model, 0).item()
    model.load_state_dict(trained(tmp_path, 0, 8))
    assert some_loss(model, 0).item() < before


def test_the_rate_rises_stays_and_falls():
    rates = [learning_rate(step, step / 100, warmup=10, tail=0.4) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[10:60] == [1.0] * 50
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert 0.009 < rates[-1] < 0.03


def learn_together(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    with first_alone():
        made = folder / "made"
        assert made.exists() == (rank == 1)
        time.sleep(0.3 * (rank == 0))
        made.touch()
    model = small_model()
    run = Run(folder / "run", model, 0.02)
    for step in range(3):
        run.step(some_loss(model, 10 * step + rank))
    run.save(3, {})
    torch.save(model.state_dict(), folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # the threads of the group may outlive it, and an interpreter that is torn down under them aborts


def test_two_processes_learn_as_one_from_the_clips_of_both(tmp_path, monkeypatch):
    # New processes begin with the main module, and a page that ran in this one leaves its script as that.
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    multiprocessing.spawn(learn_together, (tmp_path,), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    model = small_model()
    run = Run(tmp_path / "alone", model, 0.02)
    for step in range(3):
        run.step((some_loss(model, 10 * step) + some_loss(model, 10 * step + 1)) / 2)
    for name, found in model.state_dict().items():
        torch.testing.assert_close(found, one[name], atol=1e-5, rtol=0)
    assert (tmp_path / "run" / "state.pt").exists()


def test_a_training_of_so_many_steps_goes_through_them_all_from_where_it_stands():
    budget = Budget(5)
    assert list(by_step(lambda step: step * step, budget, 2)) == [(2, 4), (3, 9), (4, 16)]
    assert [budget.part(step) for step in (0, 4)] == [0, 0.8]
    assert [budget.is_last(step) for step in (3, 4)] == [False, True]


def test_a_training_within_minutes_takes_the_steps_that_fit(monkeypatch):
    now = iter(range(20, 10_000, 20))
    monkeypatch.setattr("training.tiny.run.time.monotonic", lambda: next(now))
    budget = Budget(5, within=4, began=0)
    assert budget.part(0) == pytest.approx(20 / 240)
    steps = [step for step, _ in by_step(lambda step: step, budget, 0)]
    assert len(steps) > 5
    assert budget.part(steps[-1]) == 1


def test_minutes_break_a_training_off(monkeypatch):
    monkeypatch.setattr("training.tiny.run.time.monotonic", lambda: 0.0)
    budget = Budget(100, minutes=1, began=0)
    assert not budget.is_last(50)
    monkeypatch.setattr("training.tiny.run.time.monotonic", lambda: 61.0)
    assert budget.is_last(50)
    assert budget.part(50) == 0.5
