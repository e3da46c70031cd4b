"""A model loaded once for many benchmarks, through the harness's Hugging Face backend."""

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import AutoModelForCausalLM, AutoTokenizer

from kilter.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lm_eval.api.instance import Instance

    from kilter.progress import Progress

# On a CPU larger batches mostly add padding; on a device the harness finds what fits.
CPU_BATCH_SIZE = 32
TOLD_EVERY = 16


@dataclass
class Tally:
    """What happened to the requests of one benchmark."""

    requests: int = 0
    truncated: int = 0
    """Requests whose beginning was cut off, because they are longer than the model's context."""
    shortened: dict[int, int] = field(default_factory=dict)
    """New tokens that a task asks for → those it gets, where the model's context has no room for them."""


class LanguageModel(HFLM):  # type: ignore[misc]
    """The harness's Hugging Face model that also counts what it had to cut, and tells how far it is."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int | str) -> None:
        with _only_errors():
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_batch_size=64)
        self.tally = Tally()

    @contextlib.contextmanager
    def counting(self, progress: "Progress") -> "Iterator[Tally]":
        """Count the requests that are made within, and tell `progress` of each one that is done."""
        self.tally = Tally()
        before = self.cache_hook
        self.set_cache_hook(_Watcher(progress, self.tally))
        try:
            with _only_errors():
                yield self.tally
        finally:
            self.set_cache_hook(before)

    def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002
        """Score continuations; see the harness's `LM.loglikelihood`."""
        self.tally.requests += len(requests)
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def loglikelihood_rolling(self, requests: "list[Instance]", disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Score whole texts; see the harness's `LM.loglikelihood_rolling`."""
        self.tally.requests += len(requests)
        return list(super().loglikelihood_rolling(requests, disable_tqdm=True))

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Continue prompts; a task that asks for more new tokens than the context holds gets half the context."""
        self.tally.requests += len(requests)
        for request in requests:
            prompt, options = request.args
            asked = normalize_gen_kwargs(options, self.max_gen_toks)["max_gen_toks"]
            granted = asked if asked < self.max_length else self.max_length // 2
            if granted != asked:
                self.tally.shortened[asked] = granted
                others = {name: value for name, value in options.items() if not name.startswith("max_")}
                request.arguments = (prompt, {**others, "max_gen_toks": granted})
            self.tally.truncated += len(self.tok_encode(prompt)) > self.max_length - granted
        return list(super().generate_until(requests, disable_tqdm=True))

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **options: Any) -> list[tuple[float, bool]]:
        # The last token of a continuation is only predicted, never read.
        self.tally.truncated += sum(len(context) + len(rest) - 1 > self.max_length for _, context, rest in requests)
        return list(super()._loglikelihood_tokens(requests, *args, **options))


@dataclass(frozen=True)
class ModelUnderTest:
    """A model and its tokenizer in memory, ready for any number of benchmarks."""

    language_model: LanguageModel
    precision: Literal["fp32", "bf16"]

    @classmethod
    def load(
        cls, folder: "Path", precision: Literal["fp32", "bf16"], batch_size: int | str | None = None
    ) -> "ModelUnderTest":
        """Load a model from a folder with config.json, safetensors and a tokenizer. No remote code, no hub.

        Args:
            folder: Where the files lie.
            precision: What the weights and the arithmetic are in.
            batch_size: Requests a batch; by default 32 on a CPU, and what fits (at most 64) on a GPU. It changes no
                score beyond rounding.

        Raises:
            StageFailed: the folder has no such model, the tokenizer has no end-of-sequence token, or the model's
                predictions are not finite.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise StageFailed(f"the model in {folder} cannot be loaded: {error}") from error
        if tokenizer.eos_token_id is None:
            raise StageFailed(f"the tokenizer in {folder} has no end-of-sequence token, so no answer would ever end")
        model = model.to(device).eval()
        _check_finite(model, tokenizer.eos_token_id, folder)
        size = batch_size or (CPU_BATCH_SIZE if device == "cpu" else "auto")
        return cls(LanguageModel(model, tokenizer, size), precision)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.language_model.tokenizer

    @property
    def network(self) -> Any:
        """The transformers model itself."""
        return self.language_model.model

    @property
    def context_length(self) -> int:
        """The longest sequence in tokens, prompt and answer together."""
        return int(self.language_model.max_length)


class _Watcher:
    """Stands where the harness's response cache would, so it hears of each request that is done."""

    def __init__(self, progress: "Progress", tally: Tally) -> None:
        self._progress = progress
        self._tally = tally
        self._done = 0

    def add_partial(self, *_: Any) -> None:
        """Tell of one more request."""
        self._done += 1
        total = max(self._tally.requests, self._done)
        if self._done == total or self._done % TOLD_EVERY == 0:
            self._progress.update(self._done, total, unit="requests")


@contextlib.contextmanager
def _only_errors() -> "Iterator[None]":
    """Keep the backend's warnings out of the log: one line a truncated request, which the tally counts."""
    logger = logging.getLogger(HFLM.__module__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_finite(model: Any, token: int, folder: "Path") -> None:
    with torch.inference_mode():
        logits = model(torch.tensor([[token]], device=model.device)).logits
    if not torch.isfinite(logits).all():
        raise StageFailed(f"the model in {folder} predicts NaN or infinity: its weights are broken, train it again")
