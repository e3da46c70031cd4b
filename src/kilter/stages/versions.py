"""Code versions: what makes a stage's answer a different one when nothing in its configuration changed."""

from importlib import metadata
from typing import TYPE_CHECKING

from kilter.stages.registry import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the lock pins, for machines that plan but do not train; a test holds it to requirements.lock.
PINNED: "Mapping[str, str]" = {
    "torch": "2.13",
    "transformers": "5.23",
    "trl": "1.16",
    "lm-eval": "0.4.13",
    "peft": "0.21",
    "tokenizers": "0.23",
}


def library_version(name: str) -> str:
    """Return the minor version of an installed library, or the pinned one where it is not installed.

    lm-eval changes tasks and prompts in patch releases, so its whole version counts.
    """
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return PINNED[name]
    release = version.split("+")[0]
    return release if name == "lm-eval" else ".".join(release.split(".")[:2])


def code_versions() -> dict[str, str]:
    """Return each stage's code version: its integer, and the libraries that shape its result."""
    return {
        name: ";".join([str(kind.code), *(f"{library}={library_version(library)}" for library in kind.libraries)])
        for name, kind in STAGES.items()
    }
