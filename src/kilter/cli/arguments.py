"""Arguments that several verbs take, and what they mean."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kilter.store.store import Store
    from kilter.study.specification import Study

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study file (YAML).", show_default=False)]
StoreUri = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URI",
        help="A folder or s3://bucket/prefix; wins over the study's own.",
        envvar="KILTER_STORE",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for scripts.")]


@dataclass(frozen=True)
class OpenStudy:
    """A study that was read, with its folder and its store."""

    study: "Study"
    folder: Path
    store_uri: str

    def open_store(self) -> "Store":
        """Open the study's store."""
        from kilter.store.store import Store

        return Store.open(self.store_uri)


def read_study(path: Path, store: str | None) -> OpenStudy:
    """Read a study; its own store is relative to the working directory, its sources to its own folder.

    Raises:
        WrongInput: the study is wrong; all of its problems are in the message.
    """
    from kilter.study.load import load_study

    study = load_study(path, os.environ)
    return OpenStudy(study, path.resolve().parent, store or study.store)


def default_store(store: str | None) -> str:
    """Return the store that verbs without a study work on: the option, KILTER_STORE, or ./kilter-store."""
    return store or "./kilter-store"
