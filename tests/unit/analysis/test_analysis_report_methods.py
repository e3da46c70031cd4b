"""The report says of each method what it optimises, by which paper, and which loss was in force."""

from study_results import study_results

from kilter.analysis.analyse import analyse
from kilter.analysis.report.index import Index
from kilter.analysis.report.methods import method_rows


def test_methods_are_told_with_their_paper_and_the_loss_that_was_in_force():
    results = study_results(documents=30)
    rows = {row.label: row for row in method_rows(Index(results, analyse(results)))}
    assert next(iter(rows)) == "DPO"
    assert "arXiv 2305.18290" in rows["DPO"].paper
    (trained,) = rows["DPO"].trained
    assert trained.startswith("PairTrainer, loss ")
    assert "trl " in trained
