"""`kilter store`: keeps the store."""

from typing import Annotated

import typer

from kilter.cli.arguments import AsJson, StoreUri, default_store
from kilter.cli.console import human_bytes, print_json, print_note
from kilter.errors import EXIT_DONE, EXIT_FAILED

app = typer.Typer(help="List, verify and clean what the store holds.", no_args_is_help=True)


@app.command(name="ls", epilog="Example: kilter store ls --store ./kilter-store")
def list_results(store: StoreUri = None, as_json: AsJson = False) -> None:
    """List every result with its size."""
    from kilter.store.maintenance import usage
    from kilter.store.store import Store

    rows = list(usage(Store.open(default_store(store))))
    if as_json:
        print_json(
            [
                {
                    "stage": row.reference.stage,
                    "key": row.reference.key,
                    "label": row.label,
                    "bytes": row.size,
                    "made": row.ended,
                }
                for row in rows
            ]
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("result", "label", "size", "made (UTC)")
    for row in rows:
        table.add_row(
            f"{row.reference.stage}/{row.reference.key[:10]}",
            row.label,
            human_bytes(row.size),
            f"{row.ended:%Y-%m-%d %H:%M}",
        )
    Console().print(table)
    print_note(f"{len(rows)} results, {human_bytes(sum(row.size for row in rows))}")


@app.command(epilog="Example: kilter store verify")
def verify(
    results: Annotated[
        list[str] | None, typer.Argument(metavar="[RESULT]...", help="Results to check; by default all.")
    ] = None,
    store: StoreUri = None,
) -> int:
    """Read every object again and compare it with its manifest."""
    from kilter.stages.find import find_result
    from kilter.store.maintenance import verify as verify_results
    from kilter.store.store import Store

    opened = Store.open(default_store(store))
    references = [find_result(opened, name) for name in results] if results else None
    corruptions = verify_results(opened, references, None)
    for corruption in corruptions:
        print(corruption)
    if corruptions:
        print_note(
            f"{len(corruptions)} objects are corrupt: `kilter store invalidate RESULT`, then run the study again"
        )
        return EXIT_FAILED
    print_note("every object is as its manifest says")
    return EXIT_DONE


@app.command(epilog="Example: kilter store prune --dry-run")
def prune(
    store: StoreUri = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove losing and dead attempts, results that were invalidated, left-over resume state and expired leases."""
    from kilter.store.maintenance import prune as prune_store
    from kilter.store.store import Store

    result = prune_store(Store.open(default_store(store)), dry_run)
    verb = "would remove" if dry_run else "removed"
    print_note(f"{verb} {result.objects} objects, {human_bytes(result.size)}")


@app.command(epilog="Example: kilter store invalidate align/3f9a --dependants")
def invalidate(
    result: Annotated[str, typer.Argument(metavar="RESULT", help="stage/key, or the beginning of a key.")],
    store: StoreUri = None,
    dependants: Annotated[bool, typer.Option("--dependants", help="Also what was built from it.")] = False,
) -> None:
    """Set a result aside so that it is made anew."""
    from kilter.stages.find import find_result
    from kilter.store.maintenance import invalidate as invalidate_result
    from kilter.store.store import Store

    opened = Store.open(default_store(store))
    pending = [find_result(opened, result)]
    seen = set(pending)
    while pending:
        reference = pending.pop()
        built = invalidate_result(opened, reference)
        print_note(f"invalidated {reference.short}")
        for other in built:
            if other not in seen:
                seen.add(other)
                if dependants:
                    pending.append(other)
                else:
                    print_note(f"  {other.short} was built from it and stays; --dependants sets it aside too")
