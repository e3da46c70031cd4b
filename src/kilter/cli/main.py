"""The `kilter` command: one verb a module, errors on stderr, exit codes that scripts can trust."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from kilter import __version__
from kilter.cli import export, init, lock, methods, plan, report, run, show, stage, store, validate
from kilter.cli.console import print_error
from kilter.errors import EXIT_DONE, EXIT_FAILED, EXIT_WRONG_INPUT, KilterError

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_INTERRUPTED = 130

# Typer carries a click of its own, whose name is not public; its errors are found by what they derive from.
_UsageError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="kilter",
    help="Preference-alignment studies of language models: one file in, a tested verdict out.",
    epilog="Begin with: kilter init my-study.yaml && kilter run my-study.yaml",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for verb in (init, validate, methods, plan, run, report, show, export, lock, stage):
    verb.register(app)
app.add_typer(store.app, name="store")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"kilter {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", envvar="KILTER_DEBUG")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version
    if debug:
        os.environ["KILTER_DEBUG"] = "1"


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run the command and return its exit code: 0 done, 1 a stage failed, 2 the input is wrong."""
    try:
        code = app(list(arguments) if arguments is not None else None, standalone_mode=False)
    except KilterError as error:
        if os.environ.get("KILTER_DEBUG") == "1":
            raise
        print_error(str(error))
        return error.exit_code
    except typer.Abort:
        return EXIT_INTERRUPTED
    except _UsageError as error:
        show = getattr(error, "show", None)
        if callable(show):
            show()
        return EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: point stdout elsewhere so that nothing is flushed into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception as error:  # a defect of ours must not look like the user's
        if os.environ.get("KILTER_DEBUG") == "1":
            raise
        print_error(
            f"{type(error).__name__}: {error}\nThis is a defect of Kilter. Run again with --debug for the traceback."
        )
        return EXIT_FAILED
    return code if isinstance(code, int) else EXIT_DONE


def run_command() -> None:
    """Run the command as a program of its own."""
    sys.exit(main())


if __name__ == "__main__":
    run_command()
