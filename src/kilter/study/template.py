"""The study file that `kilter init` writes: commented field by field, and valid as it is."""

from pathlib import Path

from kilter.study.schema import SCHEMA_PATH

TEMPLATE_PATH = Path(__file__).with_name("study.template.yaml")
_HINT = "# yaml-language-server: $schema="


def template_text(schema: str | None = None) -> str:
    """Return the commented study.

    Args:
        schema: Where editors find the JSON Schema: a URL or path for the first line. By default the one that is
            installed with Kilter.
    """
    lines = TEMPLATE_PATH.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join([f"{_HINT}{schema or SCHEMA_PATH.as_uri()}\n", *lines[1:]])
