"""Holds code versions to the code: when a stage's modules change, its version rises or a reason is given.

A fingerprint is a digest of the syntax trees of a stage's modules, docstrings and comments left out. The recorded ones
lie in fingerprints.json; a test compares. `python -m kilter.stages.fingerprints` records what is there now:

    python -m kilter.stages.fingerprints                       # after `code` was raised in the registry
    python -m kilter.stages.fingerprints --waive "renamed a variable"   # the results stay the same
"""

import argparse
import ast
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kilter.canonical import digest
from kilter.errors import WrongInput
from kilter.stages.registry import STAGES, StageKind

RECORD = Path(__file__).with_name("fingerprints.json")


def fingerprint(kind: StageKind) -> str:
    """Return the digest of a stage's modules.

    Raises:
        WrongInput: the registry names a module that does not exist.
    """
    return digest({name: _tree(path) for module in kind.modules for name, path in sorted(_files(module).items())})[:16]


def _files(module: str) -> dict[str, Path]:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise WrongInput(f"the registry names {module}, which does not exist")
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return {module: origin}
    folder = origin.parent
    return {str(path.relative_to(folder.parent)): path for path in folder.rglob("*.py")}


def _tree(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body: list[ast.stmt] = getattr(node, "body", [])
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in body if not _is_text(statement)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def recorded() -> dict[str, dict[str, Any]]:
    """Return what was recorded: code version, fingerprint and, for a waiver, the reason, by stage."""
    record: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    return record


def stale() -> dict[str, str]:
    """Return the stages whose code is not what was recorded, each with what to do."""
    record = recorded()
    problems: dict[str, str] = {}
    for name, kind in STAGES.items():
        entry = record.get(name, {})
        if entry.get("code") != kind.code:
            problems[name] = f"code version {kind.code} is not recorded; run python -m kilter.stages.fingerprints"
        elif entry.get("fingerprint") != fingerprint(kind):
            problems[name] = (
                f"its modules changed: raise `code` of {name} in the registry if results change, and record it with "
                'python -m kilter.stages.fingerprints; if they do not, add --waive "why"'
            )
    return problems


def record(waiver: str | None) -> None:
    """Record the code as it is now.

    Raises:
        WrongInput: a stage changed with neither a new code version nor a waiver.
    """
    before = recorded()
    entries: dict[str, dict[str, Any]] = {}
    for name, kind in STAGES.items():
        entry = before.get(name, {})
        now = fingerprint(kind)
        if entry.get("code") == kind.code and entry.get("fingerprint") == now:
            entries[name] = entry
        elif entry.get("code") == kind.code and waiver is None:
            raise WrongInput(f"{name} changed: raise its `code` in the registry, or say why results stay: --waive")
        else:
            waived = entry.get("code") == kind.code
            entries[name] = {"code": kind.code, "fingerprint": now, **({"waiver": waiver} if waived else {})}
    RECORD.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Record from the command line."""
    parser = argparse.ArgumentParser(description="Record the fingerprints of the stages' code.")
    parser.add_argument("--waive", metavar="REASON", help="the change leaves every result as it is, because …")
    record(parser.parse_args().waive)


if __name__ == "__main__":
    main()
