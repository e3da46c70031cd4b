"""The report says of each method what it optimises, by which paper, and which loss was in force."""

from study_results import study_results

from kilter.analysis.analyse import analyse
from kilter.analysis.report.index import Index
from kilter.analysis.report.methods import adapter_text, method_rows


def test_methods_are_told_with_their_paper_and_the_loss_that_was_in_force():
    results = study_results(documents=30)
    rows = {row.label: row for row in method_rows(Index(results, analyse(results)))}
    assert next(iter(rows)) == "DPO"
    assert "arXiv 2305.18290" in rows["DPO"].paper
    (trained,) = rows["DPO"].trained
    assert trained.startswith("PairTrainer, loss ")
    assert "trl " in trained


def test_an_adapter_is_told_with_its_shape_and_how_much_of_the_model_it_trains():
    adapter = {"method": "lora", "rank": 8, "alpha": 16, "dropout": 0.0, "target": "all-linear"}
    training = {"parameters": 26784, "adapter": adapter | {"trainable_parameters": 4096}}
    assert adapter_text(training) == "LoRA, rank 8, alpha 16 on all linear layers, 4,096 trained of 26,784 weights"
    dropping = training | {"adapter": training["adapter"] | {"method": "qlora", "dropout": 0.05}}
    assert adapter_text(dropping).startswith("QLoRA, rank 8, alpha 16, dropout 0.05 on ")
    assert adapter_text({"parameters": 26784}) == ""
