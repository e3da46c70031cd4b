"""Which versions of the libraries made a result; nothing is imported to find out."""

import platform
from importlib import metadata

from kilter import __version__

LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "boto3",
    "datasets",
    "deepspeed",
    "lm-eval",
    "numpy",
    "peft",
    "pyarrow",
    "pydantic",
    "safetensors",
    "scipy",
    "statsmodels",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


def library_versions() -> dict[str, str]:
    """Return the versions of Kilter, Python, and every library in `LIBRARIES` that is installed."""
    versions = {"kilter": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions
