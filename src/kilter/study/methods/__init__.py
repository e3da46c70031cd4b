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

__all__ = ["METHODS", "OTHER_NAMES", "Hyperparameter", "Method", "method_label"]

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for method in (*LOGISTIC, *CONTRASTIVE, *UNPAIRED, *LIKELIHOOD)}
)

OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "sigmoid": "dpo",
        "rdpo": "robust",
        "robust-dpo": "robust",
        "slic": "hinge",
        "slic-hf": "hinge",
        "exo-pair": "exo",
        "nca-pair": "nca",
        "bco-pair": "bco",
        "sppo-hard": "sppo",
        "kto-pair": "kto",
        "aot-pair": "aot",
        "alpha-po": "alphapo",
        "trdpo": "tr-dpo",
        "lddpo": "ld-dpo",
        "f-dpo": "dpo-js",
    }
)
"""What TRL and others call some of them."""


def method_label(name: str) -> str:
    """Return a method's name as people write it; a name that is not known stays as it is."""
    return METHODS[name].label if name in METHODS else name
