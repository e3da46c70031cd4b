"""How the local backend judges memory."""

from datetime import UTC, datetime
from pathlib import Path

from kilter.backends.local.memory import PROCESS_BYTES, available_bytes, estimated_bytes
from kilter.plan.configs import IngestConfig, ReferenceConfig
from kilter.plan.graph import Node
from kilter.store.manifest import Request, Resources
from kilter.store.store import Store

WEIGHTS = 3_000_000


def test_a_stage_needs_multiples_of_its_models_weights(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    source = Node("ingest", IngestConfig(kind="model", content="sha256:0"), {}, "1")
    request = Request(
        stage="ingest", key=source.reference.key, code="1", label="", config=source.config_data, inputs={}, hints={}
    )
    attempt = store.begin(source.reference)
    (attempt.directory / "model").mkdir()
    (attempt.directory / "model" / "model.safetensors").write_bytes(b"\0" * WEIGHTS)
    resources = Resources(seconds=0, cpu_seconds=0, peak_memory_bytes=0, tokens=None)
    store.commit(attempt, request, {}, datetime.now(UTC), resources)
    config = ReferenceConfig(split="train", start=0, stop=8, mismatched=False, precision="fp32")
    reading = Node("reference", config, {"model": source.reference}, "1")
    assert estimated_bytes(source, store) == PROCESS_BYTES
    assert PROCESS_BYTES + WEIGHTS <= estimated_bytes(reading, store) <= PROCESS_BYTES + 3 * WEIGHTS


def test_this_machine_has_memory() -> None:
    available = available_bytes()
    assert available is None or available > 0
