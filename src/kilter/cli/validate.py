"""`kilter validate`: checks a study file."""

import typer

from kilter.cli.arguments import StudyPath, read_study


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="validate", epilog="Example: kilter validate studies/demo.yaml")(validate)


def validate(study: StudyPath) -> None:
    """Check a study file and show all that is wrong with it, each with its fix."""
    from kilter.analysis.words import counted
    from kilter.backends.planning import plan_study, require_trainable

    opened = read_study(study, None)
    require_trainable(opened.study)
    plan = plan_study(opened.study, opened.folder, online=False)
    aligned = sum(model.role == "aligned" for model in plan.models)
    benchmarks = len(opened.study.benchmarks)
    sizes = (counted(aligned, "aligned model"), counted(benchmarks, "benchmark"), counted(len(plan.nodes), "stage"))
    print(f"{study} is valid: {', '.join(sizes)}")
