"""Turns a planned stage into the request that `kilter stage` reads from the store."""

from typing import TYPE_CHECKING

from kilter.store.manifest import Request

if TYPE_CHECKING:
    from kilter.plan.graph import Node


def request_of(node: "Node") -> Request:
    """Return the request of a planned stage."""
    reference = node.reference
    return Request(
        stage=reference.stage,
        key=reference.key,
        code=node.code,
        label=node.label,
        config=node.config_data,
        inputs={role: str(item) for role, item in node.inputs.items()},
        hints=dict(node.hints),
    )
