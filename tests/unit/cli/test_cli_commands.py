"""The command line: quick, light, with examples, and with exit codes that scripts can trust."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from studies import SMALL_STUDY

from kilter.cli import methods_page
from kilter.cli.main import app, main
from kilter.cli.reference import TARGET, reference_text
from kilter.study.methods import METHODS
from kilter.training import four_bits

HEAVY = ("torch", "kfp", "transformers", "trl", "lm_eval", "pandas", "scipy", "boto3", "pyarrow")


@pytest.mark.parametrize(
    "statement", ["import kilter", "import kilter.cli.main", "from kilter.cli.main import main; main(['--help'])"]
)
def test_starting_imports_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def _verbs() -> list[list[str]]:
    verbs: list[list[str]] = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        verbs += [[name, verb] for verb in inner] if inner else [[name]]
    return verbs


@pytest.mark.parametrize("verb", _verbs(), ids=" ".join)
def test_every_verb_explains_itself_with_an_example(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: kilter {' '.join(verb)}" in shown


def test_the_command_reference_is_fresh() -> None:
    assert TARGET.read_text(encoding="utf-8") == reference_text(), "run make docs"


def test_the_page_of_methods_is_that_of_the_registry() -> None:
    assert methods_page.TARGET.read_text(encoding="utf-8") == methods_page.methods_text(), "run make docs"


def test_methods_are_listed_and_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    assert [method["name"] for method in json.loads(capsys.readouterr().out)["methods"]] == list(METHODS)
    assert main(["methods", "simpo"]) == 0
    told = capsys.readouterr().out
    assert "arXiv 2405.14734" in told
    assert "gamma" in told


def test_a_method_that_does_not_exist_is_refused_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "simp"]) == 2
    assert "did you mean `simpo`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["run"], 2),
        (["run", "no-such-study.yaml"], 2),
        (["no-such-verb"], 2),
        (["plan", "--no-such-option"], 2),
        (["stage", "no-such-stage", "--key", "0"], 2),
        (["store", "ls", "--store", "gs://bucket"], 2),
        (["show", "nothing", "--store", "does-not-exist"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code


def test_errors_go_to_stderr_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["plan", "no-such-study.yaml"])
    written = capsys.readouterr()
    assert written.out == ""
    assert "no-such-study.yaml" in written.err
    assert "Traceback" not in written.err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    environment = {**os.environ, "KILTER_DEBUG": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "kilter.cli.main", "plan", "no-such-study.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert "Traceback" in done.stderr


def test_init_writes_a_study_that_is_valid_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    assert main(["init", str(path)]) == 0
    assert main(["validate", str(path)]) == 0
    path.write_text("mine")
    assert main(["init", str(path)]) == 2
    assert path.read_text() == "mine"


def test_training_in_4_bits_is_refused_beforehand_where_this_machine_cannot_train_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(four_bits, "accelerator_present", lambda: False)
    quantised = {"training": {"align": {"peft": {"method": "qlora"}}}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SMALL_STUDY, **quantised}))
    store = ["--store", str(tmp_path / "store")]
    for arguments in (["validate", str(path)], ["plan", str(path), *store], ["run", str(path), *store]):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert "needs bitsandbytes and a GPU, and here is no GPU" in said
        assert "pip install bitsandbytes" in said
        assert "write `method: lora`" in said
    assert main(["plan", str(path), *store, "--gpu", "h100-80gb"]) == 0, "another machine will train"
