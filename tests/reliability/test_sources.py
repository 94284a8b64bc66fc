"""T11 to T13: what must not be in the code, since it would run what others wrote."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.studio import ROOT

SOURCES = [*sorted((ROOT / "backend").rglob("*.py")), *sorted((ROOT / "ui").rglob("*.py")), ROOT / "app.py"]
CALLS = {"eval", "exec", "torch.load", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load"}
MODULES = {"pickle", "dill", "marshal", "shelve", "joblib"}


def dotted(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "", *reversed(parts)])


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_runs_what_others_wrote(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            assert dotted(node.func) not in CALLS, f"line {node.lineno}"
            named = {keyword.arg: keyword.value for keyword in node.keywords}
            assert not (isinstance(shell := named.get("shell"), ast.Constant) and shell.value), f"line {node.lineno}"
            assert "unsafe_allow_html" not in named, f"line {node.lineno}"
            assert not (isinstance(t := named.get("trust_remote_code"), ast.Constant) and t.value), (
                f"line {node.lineno}"
            )
        if isinstance(node, ast.Import):
            assert not MODULES & {alias.name for alias in node.names}, f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert node.module not in MODULES, f"line {node.lineno}"
