"""`kilter lock`: pins every model and data set of a study to a commit."""

import typer

from kilter.cli.arguments import StudyPath, read_study
from kilter.cli.console import print_note
from kilter.errors import WrongInput


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="lock", epilog="Example: kilter lock studies/insights.yaml")(lock)


def lock(study: StudyPath) -> None:
    """Write the commit of every unpinned model and data set into the study. Needs the hub."""
    from kilter.stages.locking import locked_text, unpinned_sources
    from kilter.stages.sources import hub_commit

    opened = read_study(study, None)
    names = unpinned_sources(opened.study, opened.folder)
    if not names:
        print_note(f"{study}: every source is pinned or local; nothing to write")
        return
    commits = {name: hub_commit(name) for name in names}
    unreachable = [name.source for name, commit in commits.items() if commit is None]
    if unreachable:
        raise WrongInput(f"the hub could not be reached for {', '.join(unreachable)}; nothing was written")
    found = {name: commit for name, commit in commits.items() if commit is not None}
    study.write_text(locked_text(study.read_text(encoding="utf-8"), found), encoding="utf-8")
    for name, commit in found.items():
        print_note(f"{name.source}: {commit}")
