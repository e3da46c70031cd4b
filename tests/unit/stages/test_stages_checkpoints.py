"""How often a training saves, and how many checkpoints stay: the machine's word, then the study's."""

import pytest
from studies import make_study, make_surroundings

from kilter.errors import WrongInput
from kilter.plan.expand import expand
from kilter.stages.checkpoints import HINT, checkpoint_settings


def planned(**checkpoints: float) -> dict[str, dict[str, object]]:
    """Return the hints of every stage of a study's plan by key."""
    study = make_study(training={"checkpoints": checkpoints})
    return {str(reference): dict(node.hints) for reference, node in expand(study, make_surroundings(study))}


def test_the_studys_settings_reach_the_stages_that_train_and_are_part_of_no_key() -> None:
    plain, changed = planned(), planned(every_seconds=60, keep=5)
    assert plain.keys() == changed.keys()
    settings = {name: hints[HINT] for name, hints in changed.items() if HINT in hints}
    assert {name.split("/")[0] for name in settings} == {"sft", "align"}
    assert all(checkpoint_settings({}, {HINT: given}).keep == 5 for given in settings.values())
    assert all(checkpoint_settings({}, {HINT: given}).every_seconds == 60 for given in settings.values())


def test_the_machines_settings_win() -> None:
    environment = {"KILTER_CHECKPOINT_SECONDS": "0.5", "KILTER_CHECKPOINTS_KEPT": "1"}
    settings = checkpoint_settings(environment, {HINT: {"every_seconds": 60, "keep": 5}})
    assert (settings.every_seconds, settings.keep) == (0.5, 1)
    assert checkpoint_settings({}, {}).every_seconds == 300


@pytest.mark.parametrize(
    ("name", "value"),
    [("KILTER_CHECKPOINT_SECONDS", "soon"), ("KILTER_CHECKPOINT_SECONDS", "-1"), ("KILTER_CHECKPOINTS_KEPT", "0")],
)
def test_a_wrong_setting_of_the_machine_is_named(name: str, value: str) -> None:
    with pytest.raises(WrongInput, match=f"{name}.*'{value}'"):
        checkpoint_settings({name: value}, {})
