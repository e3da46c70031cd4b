"""What a stage is given to run: its question, its inputs on disk, a place to write, and ways to tell and to stop."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kilter.errors import StageFailed
from kilter.progress import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kilter.data.mirror import Mirror
    from kilter.model import Model
    from kilter.plan.graph import Reference
    from kilter.progress import Progress
    from kilter.store.background import BackgroundCheckpoints
    from kilter.store.manifest import Manifest, Request
    from kilter.store.store import Store
    from kilter.study.specification import Checkpoints

ConfigType = TypeVar("ConfigType", bound="Model")
Resource = TypeVar("Resource")


@dataclass(frozen=True)
class StageContext:
    """One attempt at one stage."""

    store: "Store"
    request: "Request"
    config: "Model"
    inputs: "dict[str, Reference]"
    output: "Path"
    """The folder that becomes the result; everything in it is published."""
    scratch: "Path"
    """A folder for what is needed only while the stage runs."""
    progress: "Progress"
    stop: "Callable[[], bool]"
    resume: "BackgroundCheckpoints"
    checkpoints: "Checkpoints"
    shared: dict[str, Any] = field(default_factory=dict)
    """What stages that run together in one process share, such as a loaded model."""

    def config_as(self, kind: "type[ConfigType]") -> "ConfigType":
        """Return the configuration, as the type that the stage expects."""
        if not isinstance(self.config, kind):
            raise TypeError(f"stage {self.request.stage} expects {kind.__name__}, got {type(self.config).__name__}")
        return self.config

    def roles(self, prefix: str) -> "list[Reference]":
        """Return the inputs of a role: the one named so, or all of `prefix/0`, `prefix/1`, … in order."""
        if prefix in self.inputs:
            return [self.inputs[prefix]]
        numbered = [role for role in self.inputs if role.startswith(f"{prefix}/")]
        return [self.inputs[role] for role in sorted(numbered, key=lambda role: int(role.split("/")[1]))]

    def manifest(self, reference: "Reference") -> "Manifest":
        """Return the manifest of an input.

        Raises:
            StageFailed: the input has no manifest, so it has not been made yet.
        """
        manifest = self.store.manifest(reference)
        if manifest is None:
            raise StageFailed(
                f"{reference.short} is not in {self.store.uri}: run it first, `kilter run` does so by itself"
            )
        return manifest

    def fetch(self, reference: "Reference", *names: str) -> "Path":
        """Bring an input's objects to this machine, verified, and return their folder; without names, all of them."""
        return self.store.fetch(self.manifest(reference), names or None, Transfer(self.progress, "MiB read"))

    def only(self, role: str) -> "Reference":
        """Return the only input of a role.

        Raises:
            StageFailed: there is none, or there are several.
        """
        references = self.roles(role)
        if len(references) != 1:
            raise StageFailed(f"stage {self.request.stage} needs one input {role!r}, got {len(references)}")
        return references[0]

    def fetch_role(self, role: str, *names: str) -> "Path":
        """Bring the objects of the only input of a role to this machine and return their folder."""
        return self.fetch(self.only(role), *names)

    def mirror(self) -> "Mirror | None":
        """Return where the study says that benchmark data lie; None where it leaves that to the hub."""
        from kilter.data.mirror import Mirror

        source = self.request.hints.get("mirror")
        return Mirror.at(source, self.scratch / "mirror") if source else None

    def resource(self, name: str, make: "Callable[[], Resource]") -> "Resource":
        """Return what stages in this process share under a name, made at its first use."""
        if name not in self.shared:
            self.shared[name] = make()
        return cast("Resource", self.shared[name])
