"""`kilter show`: prints what is known of one result."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kilter.cli.arguments import AsJson, StoreUri, default_store
from kilter.cli.console import human_bytes, human_seconds, print_json

if TYPE_CHECKING:
    from kilter.plan.graph import Reference
    from kilter.store.manifest import Manifest, Request
    from kilter.store.store import Store


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="show", epilog="Example: kilter show align/3f9a  or  kilter show sft/dpo/1500/seed0")(show)


def show(
    name: Annotated[
        str, typer.Argument(metavar="KEY_OR_MODEL", help="The beginning of a key, stage/key, or a model's name.")
    ],
    store: StoreUri = None,
    log: Annotated[bool, typer.Option("--log", help="Print the whole log instead of its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a stage's config, inputs, outputs, lineage and log."""
    from kilter.stages.find import find_result
    from kilter.store.store import Store

    opened = Store.open(default_store(store))
    reference = find_result(opened, name)
    request, manifest = opened.request(reference), opened.manifest(reference)
    if as_json:
        print_json(
            {
                "request": request.model_dump(mode="json") if request else None,
                "manifest": manifest.model_dump(mode="json") if manifest else None,
            }
        )
        return
    text = opened.read_log(reference)
    if log:
        print(text or "", end="")
        return
    _print(opened, reference, request, manifest, text)


def _print(
    store: "Store", reference: "Reference", request: "Request | None", manifest: "Manifest | None", log: str | None
) -> None:
    asked = manifest or request
    print(f"{reference}  {asked.label if asked else ''}")
    if manifest is None:
        print("not in the store yet")
    else:
        took = human_seconds(manifest.resources.seconds)
        print(f"made {manifest.ended:%Y-%m-%d %H:%M} UTC on {manifest.host} in {took}")
        print(f"manifest {store.manifest_uri(reference)}")
    if asked is None:
        return
    print("\nconfig")
    _print_fields(asked.config)
    print("\nlineage")
    _print_lineage(store, reference, 1, set())
    if manifest is not None:
        print("\noutputs")
        for item in manifest.objects:
            print(f"  {human_bytes(item.size):>10}  {item.sha256[:12]}  {item.name}")
        print("\nsummary")
        _print_fields(manifest.summary)
        print("\nversions")
        print("  " + ", ".join(f"{library} {version}" for library, version in manifest.versions.items()))
    if log:
        print("\nend of the log (all of it: --log)")
        print("\n".join(f"  {line}" for line in log.splitlines()[-15:]))


def _print_fields(fields: "dict[str, Any]") -> None:
    for name, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        print(f"  {name}: {text if len(text) <= 300 else text[:300] + '…'}")


def _print_lineage(store: "Store", reference: "Reference", depth: int, seen: "set[Reference]") -> None:
    from kilter.plan.graph import Reference

    asked = store.manifest(reference) or store.request(reference)
    if asked is None or reference in seen:
        return
    seen.add(reference)
    for role, name in asked.inputs.items():
        source = Reference.parse(name)
        found = store.manifest(source) or store.request(source)
        print(f"{'  ' * depth}{role}: {source.short}  {found.label if found else ''}")
        _print_lineage(store, source, depth + 1, seen)
