"""A stage's code does not change behind its version's back."""

from pathlib import Path

import pytest

from kilter.errors import WrongInput
from kilter.stages import fingerprints
from kilter.stages.registry import STAGES


def test_code_versions_are_recorded() -> None:
    problems = fingerprints.stale()
    assert not problems, "\n".join(f"{stage}: {what}" for stage, what in problems.items())


def test_comments_and_docstrings_are_no_change(tmp_path: Path) -> None:
    bare, told = tmp_path / "bare.py", tmp_path / "told.py"
    bare.write_text("def double(x):\n    return 2 * x\n")
    told.write_text('"""Doubles."""\n\n\ndef double(x):\n    """Double it."""\n    # why not\n    return 2 * x\n')
    other = tmp_path / "other.py"
    other.write_text("def double(x):\n    return x + x\n")
    assert fingerprints._tree(bare) == fingerprints._tree(told)
    assert fingerprints._tree(bare) != fingerprints._tree(other)


def test_a_change_needs_a_version_or_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "RECORD", tmp_path / "fingerprints.json")
    fingerprints.record(None)
    assert not fingerprints.stale()
    monkeypatch.setattr(fingerprints, "fingerprint", lambda kind: "changed")
    assert set(fingerprints.stale()) == set(STAGES)
    with pytest.raises(WrongInput, match="--waive"):
        fingerprints.record(None)
    fingerprints.record("renamed a variable")
    assert fingerprints.recorded()["align"]["waiver"] == "renamed a variable"
