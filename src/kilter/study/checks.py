"""Checks of a study that concern several fields at once. Pure: nothing here reads a file."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kilter.study.builtin import BUILTIN_TEMPLATES
from kilter.study.grid import cells_of, default_micro_batch_size, identity_of
from kilter.study.methods import METHODS, OTHER_NAMES, Hyperparameter, Method
from kilter.study.problems import Complaint, FieldPath, path_text
from kilter.study.specification import AlignSettings, Init, MethodChoice, ModelSource, SftSettings, Study
from kilter.study.suites import SUITES, expand_suites
from kilter.study.translation import coerced, complaints_of
from kilter.study.wording import listed, nearest, number_text, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_MODELS = ("base", "instruct")
_SMALLEST_VOCABULARY = 259
_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_NEAR_SUITE = 0.75
_FEW_OWNERS = 4


def check_study(study: Study) -> "Iterator[Complaint]":
    """Run every check that needs nothing but the study."""
    yield from check_axes(study)
    yield from check_scenarios(study)
    yield from check_models(study)
    yield from check_training(study)
    yield from check_methods(study)
    yield from check_benchmarks(study)


def check_axes(study: Study) -> "Iterator[Complaint]":
    """The lists that span the grid hold something, and nothing twice."""
    for field in ("scenarios", "methods", "sizes", "seeds", "benchmarks"):
        if not getattr(study, field):
            yield Complaint((field,), f"a study needs at least one of its {field}", f"add one to `{field}`")
    for field in ("scenarios", "sizes", "seeds"):
        yield from _duplicates((field,), getattr(study, field))


def check_scenarios(study: Study) -> "Iterator[Complaint]":
    """Each scenario finds the model and the data that it begins with."""
    needs = {"sft": "base", "base": "base", "instruct": "instruct"}
    for name in dict.fromkeys(needs[scenario] for scenario in study.scenarios):
        if getattr(study.models, name) is None:
            asking = [scenario for scenario in study.scenarios if needs[scenario] == name]
            word = "scenario" if len(asking) == 1 else "scenarios"
            verb = "needs" if len(asking) == 1 else "need"
            reason = f"{word} {listed(asking)} {verb} this model"
            yield Complaint(("models", name), reason, f"add `models.{name}`, or drop the {word}")
    if "sft" in study.scenarios and study.data.sft is None:
        fix = "add `data.sft` with conversations, or drop the scenario"
        yield Complaint(("data", "sft"), "scenario `sft` needs conversations to fine-tune on", fix)


def check_models(study: Study) -> "Iterator[Complaint]":
    """Each model has one origin, and one made from scratch has a shape that can exist."""
    for name in _MODELS:
        model: ModelSource | None = getattr(study.models, name)
        if model is None:
            continue
        path: FieldPath = ("models", name)
        if model.source is not None and model.init is not None:
            yield Complaint(path, "a model has either a `source` or an `init`, not both", "remove one of them")
            # What else is said about it would depend on which of the two is removed.
            continue
        if model.source is None and model.init is None:
            yield Complaint(path, "a model needs a `source` or an `init`", "add one of them")
        if model.chat_template is not None:
            yield from _check_template((*path, "chat_template"), model.chat_template)
        if model.init is not None:
            if model.revision is not None:
                yield Complaint((*path, "revision"), "only a hub id has a revision", "remove it")
            yield from _check_init(path, name, model, model.init, study)


def check_training(study: Study) -> "Iterator[Complaint]":
    """The training settings agree with each other."""
    yield from _check_settings(("training", "sft"), study.training.sft)
    yield from _check_settings(("training", "align"), study.training.align)
    yield from _check_lengths(study)


def check_methods(study: Study) -> "Iterator[Complaint]":
    """Methods, hyperparameters and overrides are known and valid, and no cell of the grid is asked for twice."""
    seen: dict[bytes, int] = {}
    wrong_already = any(True for _ in _check_settings((), study.training.align))
    for index, choice in enumerate(study.methods):
        path: FieldPath = ("methods", index)
        found = list(_check_choice(path, choice))
        yield from found
        if found:
            continue
        for cell in cells_of(choice, study.training.align):
            if not wrong_already and (wrong := next(_check_settings((*path, "training"), cell.training), None)):
                yield Complaint((*path, "training"), wrong.reason, wrong.fix)
                break
            if METHODS[cell.method].statistic == "order" and _micro_batch(cell.training) < 2:
                reason = f"{cell.method} sorts the rewards of a micro-batch, and one pair is always in order"
                yield Complaint((*path, "training"), reason, "write a `micro_batch_size` of 2 or more")
                break
            if cell.training.peft is not None and METHODS[cell.method].reference == "moving":
                own = "peft" in choice.training
                reason = (
                    f"the reference of {cell.method} moves with the policy, which takes all weights, not an adapter"
                )
                fix = "write `training: {peft: null}` inside the method, or leave the method out"
                yield Complaint((*path, "training", "peft") if own else path, reason, fix)
                break
            first = seen.setdefault(identity_of(cell), index)
            if first != index:
                reason = f"this asks for the same training as {path_text(('methods', first))}"
                yield Complaint(path, reason, "remove one of them, or give them different hyperparameters")
                break


def check_benchmarks(study: Study) -> "Iterator[Complaint]":
    """Suites are known, and no benchmark is asked for twice."""
    seen: dict[str, int] = {}
    for index, benchmark in enumerate(study.benchmarks):
        path: FieldPath = ("benchmarks", index)
        yield from _check_suite((*path, "task"), benchmark.task)
        if benchmark.task in SUITES and (benchmark.num_fewshot is not None or benchmark.assumed):
            field = "num_fewshot" if benchmark.num_fewshot is not None else "assumed"
            fix = f"remove it, or list the benchmarks of `{benchmark.task}` one by one"
            yield Complaint((*path, field), "a suite has its own settings for each benchmark", fix)
        for member in expand_suites((benchmark,)):
            first = seen.setdefault(member.task, index)
            if first != index:
                reason = f"`{member.task}` is already asked for by {path_text(('benchmarks', first))}"
                yield Complaint(path, reason, "keep one of them: a model has one score for a benchmark")
    decontaminate = study.data.preference.decontaminate
    if decontaminate is not None:
        against: FieldPath = ("data", "preference", "decontaminate", "against")
        if not decontaminate.against:
            fix = "name benchmarks or a suite, or remove `decontaminate`"
            yield Complaint(against, "the list of benchmarks is empty", fix)
        yield from _duplicates(against, decontaminate.against)
        for index, name in enumerate(decontaminate.against):
            yield from _check_suite((*against, index), name)


def _duplicates(path: FieldPath, values: "Sequence[Any]") -> "Iterator[Complaint]":
    repeated = {value for value, count in Counter(values).items() if count > 1}
    for index, value in enumerate(values):
        if value in repeated and value in values[:index]:
            yield Complaint((*path, index), f"`{value}` is listed twice", "remove one of them")


def _check_template(path: FieldPath, template: str) -> "Iterator[Complaint]":
    if "{{" not in template and "{%" not in template:
        if template not in BUILTIN_TEMPLATES:
            reason = "this is neither a built-in chat template nor Jinja text"
            yield Complaint(path, reason, suggestion(template, BUILTIN_TEMPLATES, "built-in templates"))
        return
    import jinja2

    # transformers marks the assistant's turns with a tag of its own, which says nothing about the syntax.
    text = _GENERATION_TAG.sub("", template)
    try:
        jinja2.Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except jinja2.TemplateSyntaxError as error:
        reason = f"the template's line {error.lineno} is not Jinja: {error.message}"
        yield Complaint(path, reason, "correct the template's syntax")
        return
    if "messages" not in text:
        fix = "loop over `messages`, each with `role` and `content`"
        yield Complaint(path, "the template never reads `messages`", fix)


def _check_init(path: FieldPath, name: str, model: ModelSource, init: Init, study: Study) -> "Iterator[Complaint]":
    place = (*path, "init")
    if init.base is not None:
        yield from _check_origin(place, name, init.base, study)
        if init.pretrain is not None:
            fix = "remove `pretrain`, or remove `base` to begin with random weights"
            yield Complaint((*place, "pretrain"), "a model that starts from another is not pretrained", fix)
        if init.architecture != type(init.architecture)():
            reason = "a model that starts from another has that one's shape"
            yield Complaint((*place, "architecture"), reason, "remove `architecture`, or remove `base`")
    else:
        if init.pretrain is None:
            fix = "add `pretrain` with its data, or `base` with the name of another model of the study"
            yield Complaint(place, "random weights alone are no model to align", fix)
        if model.chat_template is None:
            fix = f"add `chat_template: {BUILTIN_TEMPLATES[0]}` beside `init`"
            yield Complaint((*path, "chat_template"), "a model made from scratch has no chat template of its own", fix)
        yield from _check_architecture(place, init)
    if init.sft is not None:
        training = (*place, "sft", "training")
        yield from _check_settings(training, init.sft.training)
        yield from _check_length(training, init.sft.training, _contexts(study, [name]))


def _check_origin(place: FieldPath, name: str, base: str, study: Study) -> "Iterator[Complaint]":
    others = [other for other in _MODELS if other != name and getattr(study.models, other) is not None]
    path = (*place, "base")
    if base == name:
        fix = f"name another model of the study: {listed(others) or 'there is none'}"
        yield Complaint(path, "a model cannot start from itself", fix)
    elif base not in others:
        fix = suggestion(base, others, "other models of the study") if others else "add the other model under `models`"
        yield Complaint(path, f"the study has no other model `{base}`", fix)
    else:
        origin: ModelSource = getattr(study.models, base)
        # A circle of two is one problem: it is told where it closes.
        if origin.init is not None and origin.init.base == name and _MODELS.index(base) < _MODELS.index(name):
            fix = "give one of them a `source`, or `pretrain` it"
            yield Complaint(path, f"`{name}` starts from `{base}`, which starts from `{name}`", fix)


def _check_architecture(place: FieldPath, init: Init) -> "Iterator[Complaint]":
    shape = init.architecture
    path = (*place, "architecture")
    if shape.hidden_size % shape.heads:
        fix = f"write one of {listed(_divisors(shape.hidden_size), 'or')}"
        yield Complaint((*path, "heads"), f"heads must divide hidden_size ({shape.hidden_size})", fix)
    elif (shape.hidden_size // shape.heads) % 2:
        fix = "write fewer heads or another hidden_size: rotary positions turn pairs of dimensions"
        yield Complaint((*path, "heads"), f"a head would be {shape.hidden_size // shape.heads} wide, which is odd", fix)
    if shape.heads % shape.key_value_heads:
        fix = f"write one of {listed(_divisors(shape.heads), 'or')}"
        yield Complaint((*path, "key_value_heads"), f"key_value_heads must divide heads ({shape.heads})", fix)
    if shape.vocabulary < _SMALLEST_VOCABULARY:
        reason = "a byte-level vocabulary holds at least 256 bytes and three special tokens"
        yield Complaint((*path, "vocabulary"), reason, f"write at least {_SMALLEST_VOCABULARY}")
    if init.pretrain is not None and init.pretrain.sequence_length > shape.context_length:
        reason = f"sequences are longer than the model's context_length ({shape.context_length})"
        fix = f"write at most {shape.context_length}, or a longer `architecture.context_length`"
        yield Complaint((*place, "pretrain", "sequence_length"), reason, fix)


def _check_lengths(study: Study) -> "Iterator[Complaint]":
    """No rows are made that are longer than the models made from scratch, which are then trained on them, can read."""
    if "sft" in study.scenarios:
        yield from _check_length(("training", "sft"), study.training.sft, _contexts(study, ["base"]))
    aligned = ["instruct" if scenario == "instruct" else "base" for scenario in study.scenarios]
    contexts = _contexts(study, aligned)
    if any("max_length" not in choice.training for choice in study.methods) or not study.methods:
        yield from _check_length(("training", "align"), study.training.align, contexts)
    for index, choice in enumerate(study.methods):
        place: FieldPath = ("methods", index, "training", "max_length")
        for path, length in _items(place, choice.training.get("max_length", ())):
            if isinstance(length, int):
                yield from _check_one_length(path, length, contexts)


def _check_length(path: FieldPath, settings: SftSettings, contexts: "Mapping[str, int]") -> "Iterator[Complaint]":
    default = "" if "max_length" in settings.model_fields_set else ", the default"
    yield from _check_one_length((*path, "max_length"), settings.max_length, contexts, default)


def _check_one_length(
    path: FieldPath, length: int, contexts: "Mapping[str, int]", default: str = ""
) -> "Iterator[Complaint]":
    if not contexts or length <= min(contexts.values()):
        return
    name, context = min(contexts.items(), key=lambda item: item[1])
    reason = f"max_length ({length}{default}) is longer than the context_length of models.{name} ({context})"
    at = f" under `{path_text(path[:-1])}`" if default else ""
    fix = f"write `max_length: {context}` or less{at}, or give the model a longer `architecture.context_length`"
    yield Complaint(path, reason, fix)


def _contexts(study: Study, names: "Iterable[str]") -> dict[str, int]:
    """The longest sequences of those models that are made from scratch, by the model's name."""
    found = {name: _context_of(study, name) for name in dict.fromkeys(names)}
    return {name: context for name, context in found.items() if context is not None}


def _context_of(study: Study, name: str) -> int | None:
    """The longest sequence of a model; None where it was not made from scratch, or not soundly."""
    # A chain of models that is longer than the list of models is a circle.
    for _ in _MODELS:
        model: ModelSource | None = getattr(study.models, name, None) if name in _MODELS else None
        if model is None or model.init is None or model.source is not None:
            return None
        if model.init.base is None:
            return model.init.architecture.context_length
        name = model.init.base
    return None


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64) if number % divisor == 0]


def _check_settings(path: FieldPath, settings: SftSettings) -> "Iterator[Complaint]":
    micro = settings.micro_batch_size
    if micro is not None and settings.batch_size % micro:
        reason = f"batch_size ({settings.batch_size}) is not a multiple of micro_batch_size ({micro})"
        yield Complaint((*path, "micro_batch_size"), reason, "write a divisor of batch_size, or leave it out")
    distributed = settings.distributed
    needed = {"none": 0, "optimizer": 1, "parameters": 3}[distributed.offload]
    if distributed.zero != "auto" and distributed.zero < needed:
        reason = f"offload `{distributed.offload}` needs ZeRO {needed}{'' if needed == 3 else ' or more'}"
        yield Complaint((*path, "distributed", "zero"), reason, f"write {needed}, or leave it out")
    peft = settings.peft if isinstance(settings, AlignSettings) else None
    if peft is not None and peft.method == "qlora" and (distributed.zero not in ("auto", 0) or needed):
        field = "offload" if needed else "zero"
        reason = "QLoRA keeps its base in 4 bits on every device, which ZeRO cannot share out"
        yield Complaint((*path, "distributed", field), reason, "leave it out, or write `method: lora` in `peft`")
    if isinstance(settings, AlignSettings):
        yield from _check_budget(path, settings)
    prompt = settings.max_prompt_length if isinstance(settings, AlignSettings) else None
    if prompt is not None and prompt >= settings.max_length:
        reason = f"max_prompt_length ({prompt}) leaves no room for an answer within max_length ({settings.max_length})"
        yield Complaint((*path, "max_prompt_length"), reason, f"write less than {settings.max_length}, or leave it out")


def method_suggestion(name: str) -> str:
    """Return which method may be meant by a name that is none: what others call it, or how it is spelt."""
    known = OTHER_NAMES.get(name.lower().replace("_", "-"))
    return f"write `{known}`: {METHODS[known].title}" if known else suggestion(name, METHODS, "methods")


def _micro_batch(settings: SftSettings) -> int:
    return settings.micro_batch_size or default_micro_batch_size(settings.batch_size)


def _check_budget(path: FieldPath, settings: AlignSettings) -> "Iterator[Complaint]":
    if settings.budget == "steps" and settings.steps is None:
        yield Complaint((*path, "budget"), "the budget is in steps, but there is no number of them", "add `steps`")
    if settings.budget == "epochs" and settings.steps is not None:
        fix = "add `budget: steps`, or leave `steps` out"
        yield Complaint((*path, "steps"), "the budget is in epochs, so `steps` would do nothing", fix)


def _check_choice(path: FieldPath, choice: MethodChoice) -> "Iterator[Complaint]":
    method = METHODS.get(choice.name)
    if method is None:
        yield Complaint((*path, "name"), f"there is no method `{choice.name}`", method_suggestion(choice.name))
    else:
        for name, value in choice.hyperparameters.items():
            if name in method.hyperparameters:
                yield from _check_axis((*path, name), name, value, method.hyperparameters[name])
            else:
                reason = f"{method.name} has no hyperparameter `{name}`"
                yield Complaint((*path, name), reason, _right_name(name, method))
    for name, value in choice.training.items():
        yield from _check_override((*path, "training", name), name, value)


def _right_name(name: str, method: Method) -> str:
    own = method.hyperparameters
    if name in AlignSettings.model_fields:
        return f"`{name}` is a training setting: write `training: {{{name}: {_example(name)}}}` inside the method"
    has = f"{method.name} has {_with_meanings(own)}"
    if near := nearest(name, own):
        return f"did you mean `{near}`? {has}"
    owners = [other.name for other in METHODS.values() if name in other.hyperparameters]
    if 0 < len(owners) <= _FEW_OWNERS:
        return f"`{name}` belongs to {listed(owners)}; {has}"
    return f"write `{next(iter(own))}`: {has}" if len(own) == 1 else f"remove it; {has}"


def _example(setting: str) -> str:
    if setting == "peft":
        return "{method: lora}"
    default = AlignSettings.model_fields[setting].default
    return number_text(default) if _is_number(default) else str(default or 8)


def _with_meanings(parameters: "Mapping[str, Hyperparameter]") -> str:
    return ", ".join(f"`{name}` ({parameter.meaning})" for name, parameter in parameters.items())


def _check_axis(path: FieldPath, name: str, value: Any, parameter: Hyperparameter) -> "Iterator[Complaint]":
    if isinstance(value, list | tuple):
        if not value:
            yield Complaint(
                path, "an axis of the grid needs at least one value", f"write values, or leave `{name}` out"
            )
        yield from _duplicates(path, value if all(_is_number(item) for item in value) else ())
    example = number_text(parameter.default)
    fix = f"write a number {parameter.range_text}, such as {example} (the default, {parameter.origin})"
    fix = f"{fix}. `{name}`: {parameter.meaning}"
    for place, item in _items(path, value):
        if not _is_number(item):
            yield Complaint(place, f"`{name}` must be a number or a list of numbers", fix)
        elif not parameter.allows(float(item)):
            yield Complaint(place, f"`{name}` must be {parameter.range_text}", fix)


def _check_override(path: FieldPath, name: str, value: Any) -> "Iterator[Complaint]":
    if name not in AlignSettings.model_fields:
        yield Complaint(path, f"`training.align` has no setting `{name}`", _right_setting(name))
        return
    if isinstance(value, list | tuple):
        if not value:
            yield Complaint(
                path, "an axis of the grid needs at least one value", f"write values, or leave `{name}` out"
            )
        yield from _duplicates(path, value if all(isinstance(item, str | int | float) for item in value) else ())
    for place, item in _items(path, value):
        data = {name: item}
        try:
            understood = AlignSettings.model_validate(data)
        except ValidationError as error:
            found = complaints_of(error.errors(include_url=False), data, AlignSettings)
        else:
            found = tuple(coerced(data, understood.model_dump()))
        for complaint in found:
            yield Complaint((*place, *complaint.path[1:]), complaint.reason, complaint.fix)


def _items(path: FieldPath, value: Any) -> list[tuple[FieldPath, Any]]:
    """The values of an axis, or the one value, each with its place."""
    if isinstance(value, list | tuple):
        return [((*path, index), item) for index, item in enumerate(value)]
    return [(path, value)]


def _right_setting(name: str) -> str:
    owners = [method.name for method in METHODS.values() if name in method.hyperparameters]
    if owners:
        whose = listed(owners) if len(owners) <= _FEW_OWNERS else "methods"
        return f"`{name}` is a hyperparameter of {whose}: write it beside `name`"
    return suggestion(name, AlignSettings.model_fields, "settings")


def _check_suite(path: FieldPath, name: str) -> "Iterator[Complaint]":
    if name in SUITES:
        return
    families = {suite.split("-")[0] for suite in SUITES}
    if name.split("-")[0] in families or nearest(name, SUITES, _NEAR_SUITE):
        yield Complaint(path, f"there is no suite `{name}`", suggestion(name, SUITES, "suites"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
