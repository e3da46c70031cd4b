"""Code versions: the part of a key that says which code answered."""

import re
from pathlib import Path

from kilter.stages.registry import STAGES
from kilter.stages.versions import PINNED, code_versions, library_version

ROOT = Path(__file__).parents[3]


def test_every_stage_has_a_code_version_with_its_libraries() -> None:
    versions = code_versions()
    assert versions.keys() == STAGES.keys()
    assert versions["align"].startswith(f"{STAGES['align'].code};torch=")
    assert "trl=" in versions["align"]


def test_pinned_versions_are_those_of_the_lock() -> None:
    locked = dict(
        line.split("==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line and line[0].isalnum()
    )
    makefile = (ROOT / "Makefile").read_text()
    torch = re.search(r"^TORCH := (\S+)$", makefile, re.MULTILINE)
    assert torch is not None
    locked["torch"] = torch.group(1)
    for library, version in PINNED.items():
        assert locked[library].startswith(version), library


def test_a_patch_release_of_torch_is_the_same_code() -> None:
    assert re.fullmatch(r"\d+\.\d+", library_version("torch"))
    assert re.fullmatch(r"\d+\.\d+\.\d+", library_version("lm-eval"))
