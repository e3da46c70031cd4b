"""The demo's data: a seeded generator of small tasks whose answers can be checked.

An item belongs to one split only, and which one is a hash of what it asks. So no question of a benchmark, in whatever
order its parts come, occurs in anything that a model is trained on. Wrong answers are plausible: a number near the
right one, another order of the same letters, another of the same list.

The pretraining text knows more than it says: its remarks are nearly always right, but its questions are more often
answered by the usual mistake than rightly. So a base model has something to be taught, by right answers (SFT) or by
right ones against wrong ones (preferences), that needs little more knowledge than it has.
"""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Split = Literal["test", "sft", "instruct", "preference"]
Messages = list[dict[str, str]]

SEED = 0
SHARES: Mapping[Split, float] = MappingProxyType({"test": 0.2, "sft": 0.15, "instruct": 0.15, "preference": 0.5})
ROWS: Mapping[str, int] = MappingProxyType({"text": 40_000, "instruct": 1000, "sft": 1000, "preference": 2500})
TEST_ITEMS = 250
# A small model learns these tasks at very different speeds.
TEXT_MIX: Mapping[str, int] = MappingProxyType(
    {"arithmetic": 1, "ordering": 2, "copying": 2, "extracting": 5, "statements": 1}
)
QUESTION_SHARE = 0.4
MISTAKES_IN_REMARKS = 0.1
MISTAKES_IN_ANSWERS = 0.6
USUAL_MISTAKES_REJECTED = 0.6

PROMPT = "Question: {}\nAnswer:"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PLACES = ("first", "second", "third")
KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        kind: tuple(things.split())
        for kind, things in {
            "bird": "robin owl hawk swan duck crow dove gull wren finch",
            "fish": "cod trout pike eel carp tuna salmon perch herring sardine",
            "fruit": "apple plum pear fig lemon mango grape peach melon cherry",
            "tree": "oak elm ash pine fir birch maple willow cedar larch",
            "flower": "rose lily tulip daisy iris poppy violet orchid pansy lotus",
            "insect": "ant bee wasp moth beetle gnat flea hornet aphid locust",
            "tool": "hammer saw drill chisel wrench spade rake axe mallet trowel",
            "garment": "hat coat shirt scarf glove sock skirt vest cap jacket",
            "instrument": "flute drum harp violin guitar piano banjo cello oboe lute",
            "vehicle": "car bus van truck tram bike train cab lorry taxi",
            "building": "house barn church tower castle cabin mill school hotel shed",
            "mammal": "cat dog cow horse wolf fox bear goat sheep deer",
        }.items()
    }
)


@dataclass(frozen=True)
class Item:
    """A question with its right answer and some plausibly wrong ones."""

    task: str
    identity: str
    """What is asked, however it is put: items of equal identity share a split."""
    question: str
    answer: str
    wrong: tuple[str, ...]
    """The usual mistake first."""
    remark: str
    """A plain sentence that says the same, with `{}` where the answer stands."""

    @property
    def split(self) -> Split:
        """The only split that this item may be used in (the pretraining text uses all but `test`)."""
        place = int.from_bytes(hashlib.sha256(f"{self.task} {self.identity}".encode()).digest()[:8]) / 2**64
        for split, share in SHARES.items():
            if place < share:
                return split
            place -= share
        return "preference"


def draw_arithmetic(source: random.Random) -> Item:
    """Draw a sum or a difference with a one-digit operand; the usual mistake is one too many."""
    plus = source.random() < 0.5
    small = source.randint(1, 9)
    large = source.randint(1 if plus else small, 99)
    answer = large + small if plus else large - small
    near = [value for value in (answer - 10, answer - 2, answer - 1, answer + 2, answer + 10) if value >= 0]
    expression = f"{large} {'+' if plus else '-'} {small}"
    identity = f"{max(large, small)} {'+' if plus else '-'} {min(large, small)}"
    wrong = tuple(str(value) for value in (answer + 1, *source.sample(near, 2)))
    return Item("arithmetic", identity, f"What is {expression}?", str(answer), wrong, f"{expression} is {{}}.")


def draw_ordering(source: random.Random) -> Item:
    """Draw three letters to be sorted; the usual mistake is to leave them as they are."""
    first, second, third = sorted(source.sample(LETTERS, 3))
    orders = [
        (first, third, second),
        (second, first, third),
        (second, third, first),
        (third, first, second),
        (third, second, first),
    ]
    given, *others = (" ".join(order) for order in source.sample(orders, 3))
    return Item(
        "ordering",
        f"{first}{second}{third}",
        f"Sort the letters {given}.",
        f"{first} {second} {third}",
        (given, *others),
        f"The letters {given} in order are {{}}.",
    )


def draw_copying(source: random.Random) -> Item:
    """Draw three letters to be repeated; the usual mistake is to say them backwards."""
    first, second, third = source.sample(LETTERS, 3)
    text = f"{first} {second} {third}"
    wrong = (f"{third} {second} {first}", f"{second} {first} {third}", f"{first} {third} {second}")
    return Item("copying", text, f"Repeat the letters {text}.", text, wrong, f"The letters {text} again are {{}}.")


def draw_extracting(source: random.Random) -> Item:
    """Draw three letters, and ask for the one at a place; the usual mistake is another of them."""
    letters = source.sample(LETTERS, 3)
    place = source.randrange(3)
    text = " ".join(letters)
    answer = letters[place]
    wrong = tuple(letter for letter in letters if letter != answer)
    return Item(
        "extracting",
        f"{text}: {place}",
        f"Of the letters {text}, which is the {PLACES[place]}?",
        answer,
        wrong,
        f"Of the letters {text}, the {PLACES[place]} is {{}}.",
    )


def draw_statements(source: random.Random) -> Item:
    """Draw two statements on what a thing is, one of which is true; the mistake is the other."""
    kind, other = source.sample(tuple(KINDS), 2)
    thing = source.choice(KINDS[kind])
    right, wrong = (f"{_with_article(thing)} is {_with_article(name)}" for name in (kind, other))
    first, second = (right, wrong) if source.random() < 0.5 else (wrong, right)
    return Item(
        "statements",
        f"{thing} {other}",
        f"Which is true: {first} or {second}?",
        right,
        (wrong,),
        "It is true that {}.",
    )


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


TASKS: Mapping[str, Callable[[random.Random], Item]] = MappingProxyType(
    {
        "arithmetic": draw_arithmetic,
        "ordering": draw_ordering,
        "copying": draw_copying,
        "extracting": draw_extracting,
        "statements": draw_statements,
    }
)


def text_rows(seed: int = SEED) -> list[dict[str, str]]:
    """Return the pretraining documents: remarks, and questions that are often answered by the usual mistake."""
    rows = []
    for item, source in _items("text", ROWS["text"], seed):
        if source.random() < QUESTION_SHARE:
            answer = item.wrong[0] if source.random() < MISTAKES_IN_ANSWERS else item.answer
            rows.append({"text": f"{PROMPT.format(item.question)} {answer}"})
        else:
            answer = source.choice(item.wrong) if source.random() < MISTAKES_IN_REMARKS else item.answer
            rows.append({"text": item.remark.format(answer)})
    return rows


def conversation_rows(split: Literal["sft", "instruct"], seed: int = SEED) -> list[dict[str, Messages]]:
    """Return conversations of one question and its right answer, each question once."""
    return [{"messages": [*_asked(item), _answered(item.answer)]} for item, _ in _items(split, ROWS[split], seed)]


def preference_rows(seed: int = SEED) -> list[dict[str, str | Messages]]:
    """Return pairs in the columns of UltraFeedback-binarized: a right answer is chosen, a wrong one rejected."""
    rows: list[dict[str, str | Messages]] = []
    for item, source in _items("preference", ROWS["preference"], seed):
        wrong = item.wrong[0] if source.random() < USUAL_MISTAKES_REJECTED else source.choice(item.wrong)
        rows.append(
            {
                "prompt": item.question,
                "chosen": [*_asked(item), _answered(item.answer)],
                "rejected": [*_asked(item), _answered(wrong)],
            }
        )
    return rows


def benchmark_rows(task: str, seed: int = SEED) -> list[dict[str, str | int | list[str]]]:
    """Return the benchmark items of a task: prompt, choices in random order, the place of the right one, the answer."""
    rows: list[dict[str, str | int | list[str]]] = []
    seen: set[str] = set()
    source = _source("test", task, seed)
    while len(rows) < TEST_ITEMS:
        item = TASKS[task](source)
        if item.split != "test" or item.identity in seen:
            continue
        seen.add(item.identity)
        choices = [item.answer, *item.wrong]
        source.shuffle(choices)
        label = choices.index(item.answer)
        rows.append({"prompt": PROMPT.format(item.question), "choices": choices, "label": label, "answer": item.answer})
    return rows


def _items(use: str, rows: int, seed: int) -> Iterator[tuple[Item, random.Random]]:
    """Draw items of a use in turn from every task; questions are repeated in the text only."""
    sources = {task: _source(use, task, seed) for task in TASKS}
    asked: set[str] = set()
    mix = TEXT_MIX if use == "text" else dict.fromkeys(TASKS, 1)
    cycle = itertools.cycle([task for task, times in mix.items() for _ in range(times)])
    for task in itertools.islice(cycle, rows):
        draw, source = TASKS[task], sources[task]
        while True:
            item = draw(source)
            if use == "text" and item.split != "test":
                break
            if item.split == use and item.question not in asked:
                asked.add(item.question)
                break
        yield item, source


def _source(use: str, task: str, seed: int) -> random.Random:
    return random.Random(f"kilter demo {seed} {use} {task}")  # noqa: S311 - reproducible numbers, not secrets


def _asked(item: Item) -> Messages:
    return [{"role": "user", "content": item.question}]


def _answered(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}
