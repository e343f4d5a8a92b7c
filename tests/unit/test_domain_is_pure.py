"""`domain/` is pure: the standard library and itself, no clock, no chance, no file; sections in order."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import domain

FILES = sorted(Path(domain.__path__[0]).rglob("*.py"))
CONTEXTS = [path for path in FILES if not path.name.startswith("_")]
SECTIONS = ["Events", "State", "evolve", "Commands", "Rules", "Decisions"]
IMPURE_MODULES = {
    *("asyncio", "io", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess"),
    *("sys", "tempfile", "threading", "time", "uuid"),
}
CLOCKS = {"now", "utcnow", "today", "fromtimestamp"}
IMPURE_BUILTINS = {"open", "print", "input", "float", "exec", "eval"}


def _name(path: Path) -> str:
    return path.name


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "domain imports by full name"
            found.add((node.module or "").split(".")[0])
    return found


def test_there_is_something_to_check() -> None:
    assert {"ledger.py", "platform.py", "staking.py"} <= {path.name for path in CONTEXTS}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_domain_imports_the_standard_library_and_itself_only(path: Path) -> None:
    imports = _imports(ast.parse(path.read_text()))
    assert imports <= {"domain"} | sys.stdlib_module_names
    assert not imports & IMPURE_MODULES


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_domain_reads_no_clock_and_uses_no_float(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in CLOCKS, f"line {node.lineno} reads a clock"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_BUILTINS, f"line {node.lineno} calls {node.func.id}"
        if isinstance(node, ast.Constant):
            assert not isinstance(node.value, float), f"line {node.lineno} holds a float"
        if isinstance(node, ast.BinOp | ast.AugAssign):
            assert not isinstance(node.op, ast.Div), f"line {node.lineno} divides into a float"


def _folds(tree: ast.AST) -> list[ast.FunctionDef]:
    """The `evolve...` functions and the helpers of the same file that they call, all the way down."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found: dict[str, ast.FunctionDef] = {}
    ahead = [name for name in functions if name.startswith("evolve")]
    while ahead:
        name = ahead.pop()
        if name in functions and name not in found:
            found[name] = functions[name]
            called = (node.func for node in ast.walk(functions[name]) if isinstance(node, ast.Call))
            ahead += [func.id for func in called if isinstance(func, ast.Name)]
    return list(found.values())


@pytest.mark.parametrize("path", CONTEXTS, ids=_name)
def test_a_fold_neither_refuses_nor_emits(path: Path) -> None:
    for fold in _folds(ast.parse(path.read_text())):
        for node in ast.walk(fold):
            refuses_or_emits = isinstance(node, ast.Raise | ast.Assert | ast.Yield | ast.YieldFrom)
            assert not refuses_or_emits, f"{fold.name}, line {getattr(node, 'lineno', 0)}"


def test_the_folds_of_every_context_are_found() -> None:
    for path in CONTEXTS:
        if path.name != "__init__.py":
            assert _folds(ast.parse(path.read_text())), path.name


@pytest.mark.parametrize("path", CONTEXTS, ids=_name)
def test_parameters_stand_before_everything_else(path: Path) -> None:
    source = path.read_text()
    if "class Parameters" in source:
        assert source.index("class Parameters") < source.index("\n# Events")
    assert "class Parameters" in source or path.name != "staking.py"


@pytest.mark.parametrize("path", CONTEXTS, ids=_name)
def test_sections_stand_in_the_same_order(path: Path) -> None:
    """A section's heading may say more (`# Decisions: rewards`) and come again in parts."""
    order = []
    for line in path.read_text().splitlines():
        section = line.removeprefix("# ").split(":")[0]
        if line.startswith("# ") and section in SECTIONS and section not in order[-1:]:
            order.append(section)
    if order:  # An empty __init__.py has none.
        assert order == SECTIONS
