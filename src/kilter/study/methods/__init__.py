"""The alignment methods that a study may name: what each optimises, its paper, its data, and its hyperparameters.

How each is trained is in `kilter.training.methods`, which a test holds to this list.
"""

from collections.abc import Mapping
from types import MappingProxyType

from kilter.study.methods.contrastive import CONTRASTIVE
from kilter.study.methods.definition import Hyperparameter, Method
from kilter.study.methods.likelihood import LIKELIHOOD
from kilter.study.methods.logistic import LOGISTIC
from kilter.study.methods.unpaired import UNPAIRED

__all__ = ["METHODS", "Hyperparameter", "Method", "method_label"]

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for method in (*LOGISTIC, *CONTRASTIVE, *UNPAIRED, *LIKELIHOOD)}
)


def method_label(name: str) -> str:
    """Return a method's name as people write it; a name that is not known stays as it is."""
    return METHODS[name].label if name in METHODS else name
