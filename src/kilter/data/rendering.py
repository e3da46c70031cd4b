"""From conversations to token ids: a chat template, a tokenizer, and what both must agree on.

A template is applied to the text, and the text is tokenised without further special tokens, so that nothing is added
twice. Where the template writes no BOS but the tokenizer would add one, it is put in front. An answer ends with the one
special token that the template writes after it (its end of turn, often EOS); white space after that is left out.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from kilter.canonical import digest
from kilter.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Message = dict[str, str]
Conversation = list[Message]

_PROBE = "kilter"
SHOWN_TOKENS = 24


class Renderer:
    """Applies one chat template with one tokenizer."""

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        """Find out how the template and the tokenizer begin a text and end an answer.

        Raises:
            StageFailed: there is no template; the tokenizer is a slow one; the template fails, ends an answer with no
                special token or with several, or rewrites what came before an answer.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise StageFailed(f"{type(tokenizer).__name__} is a slow tokenizer: Kilter needs a tokenizer.json")
        text = template if template is not None else tokenizer.chat_template
        if not isinstance(text, str) or not text:
            raise StageFailed(
                "the tokenizer has no chat template, and the study gives none: set chat_template of the model to "
                "plain, chatml or the text of a Jinja template"
            )
        self._tokenizer = tokenizer
        self.template = text
        self._special = {int(number) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special |= {int(number) for number in tokenizer.all_special_ids}
        self._special_texts = sorted(
            {str(tokenizer.convert_ids_to_tokens(number)) for number in self._special}, key=len, reverse=True
        )
        self.bos: int | None = tokenizer.bos_token_id
        self.eos: int | None = tokenizer.eos_token_id
        self._adds_bos = self.bos is not None and tokenizer(_PROBE)["input_ids"][:1] == [self.bos]
        self.end = self._end_of_turn()
        self._bos_by_template = self._encode([self._render([{"role": "user", "content": _PROBE}], True)])[0][0][:1] == [
            self.bos
        ]

    def describe(self) -> dict[str, Any]:
        """What shaped the ids: tokenizer, template, and where BOS and the end of a turn come from."""
        bos = "none"
        if self.bos is not None and (self._bos_by_template or self._adds_bos):
            bos = "template" if self._bos_by_template else "tokenizer"
        return {
            "tokenizer": type(self._tokenizer).__name__,
            "vocabulary": len(self._tokenizer),
            "template": digest(self.template),
            "bos": bos,
            "bos_id": self.bos,
            "eos_id": self.eos,
            "end_of_turn_id": self.end,
            "end_of_turn": self.text(self.end),
        }

    def text(self, number: int) -> str:
        """The text of one token."""
        return str(self._tokenizer.decode([number], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def show(self, ids: "Sequence[int]") -> str:
        """Tokens with their ids, for a message; the middle of a long sequence is left out."""
        shown = [f"{number}={self.text(number)!r}" for number in ids]
        if len(shown) > SHOWN_TOKENS:
            half = SHOWN_TOKENS // 2
            shown = [*shown[:half], f"… {len(shown) - 2 * half} more …", *shown[-half:]]
        return " ".join(shown)

    def neutral(self, messages: Conversation) -> tuple[Conversation, bool]:
        """Break up special tokens that are spelt out in the messages themselves, with a blank after their first letter.

        Otherwise the text `</s>` in a document about HTML would end a turn.

        Returns:
            The messages, and whether anything changed.
        """
        changed = False
        result = []
        for message in messages:
            content = message["content"]
            for special in self._special_texts:
                if special in content:
                    content = content.replace(special, f"{special[0]} {special[1:]}")
                    changed = True
            result.append({"role": message["role"], "content": content})
        return result, changed

    def prompts(self, contexts: "Sequence[Conversation]") -> list[str]:
        """Render prompts, up to where the answer begins."""
        return [self._render(context, True) for context in contexts]

    def answered(
        self, contexts: "Sequence[Conversation]", prompts: "Sequence[str]", answers: "Sequence[str]"
    ) -> list[str]:
        """Render prompts with their answers, each up to and with its end of turn.

        Raises:
            StageFailed: the template writes the prompt otherwise when an answer follows.
        """
        rendered = []
        for context, prompt, answer in zip(contexts, prompts, answers, strict=True):
            whole = self._render([*context, {"role": "assistant", "content": answer}], False)
            self._check_prefix(prompt, whole)
            rendered.append(whole)
        return rendered

    def encode(self, texts: "Sequence[str]") -> "list[tuple[list[int], list[tuple[int, int]]]]":
        """Tokenise rendered texts: ids and character ranges, with BOS where the tokenizer would add it."""
        encoded = self._encode(texts)
        if not self._adds_bos or self._bos_by_template or self.bos is None:
            return encoded
        return [([self.bos, *ids], [(0, 0), *ranges]) for ids, ranges in encoded]

    def encode_continuations(self, texts: "Sequence[str]") -> list[list[int]]:
        """Tokenise texts that continue another: nothing is put in front."""
        return [ids for ids, _ in self._encode(texts)] if texts else []

    def cut_at_end(self, ids: list[int]) -> list[int]:
        """An answer's ids up to and with its end of turn.

        Raises:
            StageFailed: there is no end of turn, or something but white space follows it.
        """
        if self.end not in ids:
            raise StageFailed(f"an answer lacks its end of turn {self.text(self.end)!r}: {self.show(ids)}")
        place = ids.index(self.end) + 1
        rest = ids[place:]
        if rest and self._tokenizer.decode(rest, skip_special_tokens=False).strip():
            raise StageFailed(f"an answer goes on after its end of turn {self.text(self.end)!r}: {self.show(ids)}")
        return ids[:place]

    def conversation(self, messages: Conversation) -> tuple[str, list[tuple[int, int]]]:
        """Render a conversation, and say in which ranges of characters its answers lie."""
        whole = self._render(messages, False)
        ranges = []
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:place], True)
            after = self._render(messages[: place + 1], False)
            self._check_prefix(before, whole)
            self._check_prefix(after, whole)
            ranges.append((len(before), len(after)))
        return whole, ranges

    def check_prompt(self, ids: list[int], turns: int) -> None:
        """Check a prompt: BOS once at the start or not at all, no more ends of turn than turns.

        Raises:
            StageFailed: it is otherwise; the message shows the tokens.
        """
        problem = None
        if self.bos is not None and (self._bos_by_template or self._adds_bos):
            inside = ids[1:].count(self.bos)
            if self.bos == self.eos:
                inside = 1 if ids[1:2] == [self.bos] else 0
            if ids[:1] != [self.bos]:
                problem = f"does not begin with BOS {self.text(self.bos)!r}"
            elif inside:
                problem = f"holds BOS {self.text(self.bos)!r} {inside + 1} times; it belongs once, at the start"
        elif self.bos is not None and self.bos != self.eos and self.bos in ids:
            problem = f"holds BOS {self.text(self.bos)!r} not at its start"
        for token in sorted({self.end, self.end if self.eos is None else self.eos} - {self.bos}):
            # A template may put a system turn of its own in front.
            if ids.count(token) > turns + 1 or any(pair == (token, token) for pair in pairwise(ids)):
                problem = f"holds {self.text(token)!r} {ids.count(token)} times in {turns} turns, or twice in a row"
        if problem:
            raise StageFailed(
                f"a rendered prompt {problem}: {self.show(ids)}\nThe chat template does not fit the tokenizer"
            )

    def check_answer(self, ids: list[int]) -> None:
        """Check an answer: it ends with its end of turn and holds no other BOS, EOS or end of turn.

        Raises:
            StageFailed: it is otherwise; the message shows the tokens.
        """
        wrong = [number for number in ids[:-1] if number in (self.bos, self.eos, self.end)]
        if ids[-1:] != [self.end] or wrong:
            named = ", ".join(f"{number}={self.text(number)!r}" for number in wrong) or "no end of turn"
            raise StageFailed(
                f"a rendered answer must hold {self.text(self.end)!r} once, at its end, and no other BOS or EOS; "
                f"found {named}: {self.show(ids)}"
            )

    def _end_of_turn(self) -> int:
        question: Message = {"role": "user", "content": _PROBE}
        prompt = self._render([question], True)
        whole = self._render([question, {"role": "assistant", "content": _PROBE}], False)
        self._check_prefix(prompt, whole)
        rest = whole[len(prompt) :]
        if _PROBE not in rest:
            raise StageFailed(f"the chat template leaves the answer out: asked to write {_PROBE!r} it wrote {rest!r}")
        suffix = rest[rest.index(_PROBE) + len(_PROBE) :]
        ids = self._tokenizer(suffix, add_special_tokens=False)["input_ids"] if suffix else []
        ends = [number for number in ids if number in self._special]
        if len(ends) != 1:
            found = self.show(ids) or "nothing"
            why = "no special token of this tokenizer" if not ends else "several special tokens"
            raise StageFailed(
                f"the chat template ends an answer with {why}: after the answer comes {found}. An answer must end with "
                "one end of turn that the model can learn to stop at, such as EOS. The template `plain` does that for "
                "every tokenizer with an EOS"
            )
        return int(ends[0])

    def _check_prefix(self, beginning: str, whole: str) -> None:
        if whole.startswith(beginning):
            return
        place = next(
            (at for at, (left, right) in enumerate(zip(beginning, whole, strict=False)) if left != right),
            min(len(beginning), len(whole)),
        )
        near = slice(max(0, place - 40), place + 40)
        raise StageFailed(
            "the chat template writes a prompt otherwise when an answer follows, so it is not clear which tokens are "
            f"the answer's: {beginning[near]!r} becomes {whole[near]!r}"
        )

    def _render(self, messages: Conversation, ask: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, chat_template=self.template, tokenize=False, add_generation_prompt=ask
                )
            )
        except TemplateError as error:
            roles = " → ".join(message["role"] for message in messages)
            raise StageFailed(f"the chat template refuses a conversation of {roles}: {error}") from error

    def _encode(self, texts: "Sequence[str]") -> "list[tuple[list[int], list[tuple[int, int]]]]":
        encoded = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))


def load_tokenizer(folder: "Path") -> Any:
    """Load a tokenizer from a local folder, never from the hub, and without running code that comes with it."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise StageFailed(f"the tokenizer in {folder} cannot be loaded: {error}") from error
