"""The same prompts answered by each model, side by side."""

from dataclasses import dataclass

from kilter.analysis.report.formatting import excerpt
from kilter.analysis.report.index import SCENARIO_TITLES, Index, model_name, unique
from kilter.analysis.results import ModelResult

PROMPTS = 12
ANSWER_CHARACTERS = 700
PROMPT_CHARACTERS = 2000


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    model: str
    text: str
    left_out: int
    is_parent: bool
    same_as_parent: bool


@dataclass(frozen=True)
class AnswerRow:
    """The answers of a scenario's parent and methods."""

    title: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt with its answers."""

    text: str
    left_out: int
    heading: str
    rows: tuple[AnswerRow, ...]
    others: tuple[Answer, ...]
    """Answers of the other sizes, variants and seeds."""


def prompts(index: Index) -> tuple[tuple[Prompt, ...], int]:
    """Return the first prompts with all answers, and how many prompts there are beyond them."""
    texts = unique(generation.prompt for model in index.results.models for generation in model.generations)
    answered = {
        model.key: {generation.prompt: generation.answer for generation in model.generations}
        for model in index.results.models
    }
    return tuple(_prompt(index, answered, text) for text in texts[:PROMPTS]), max(0, len(texts) - PROMPTS)


def _prompt(index: Index, answered: dict[str, dict[str, str]], text: str) -> Prompt:
    rows = []
    placed: set[str] = set()
    for scenario in index.results.scenarios:
        models = (*index.ancestors(scenario), *(arm.models[0] for arm in index.arms(scenario)))
        answers = tuple(
            _answer(answered, model, text, model_name(model)) for model in models if text in answered[model.key]
        )
        placed |= {model.key for model in models}
        if answers:
            rows.append(AnswerRow(SCENARIO_TITLES.get(scenario, scenario), answers))
    others = tuple(
        _answer(answered, model, text, index.full_name(model))
        for model in index.results.models
        if model.key not in placed and text in answered[model.key]
    )
    shown, left_out = excerpt(text, PROMPT_CHARACTERS)
    heading = " ".join(text.split())
    return Prompt(shown, left_out, heading[:110] + ("…" if len(heading) > 110 else ""), tuple(rows), others)


def _answer(answered: dict[str, dict[str, str]], model: ModelResult, prompt: str, name: str) -> Answer:
    answer = answered[model.key][prompt]
    text, left_out = excerpt(answer, ANSWER_CHARACTERS)
    is_parent = model.method is None
    same = not is_parent and answered.get(model.parent or "", {}).get(prompt) == answer
    return Answer(name, text, left_out, is_parent, same)
