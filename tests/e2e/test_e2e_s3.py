"""A study whose store is in S3."""

import os
from pathlib import Path

import pytest
from command import STUDY, Finished, kilter

from kilter.store.store import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ceph,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("e2e"),
    pytest.mark.skipif(
        os.environ.get("KILTER_TEST_S3") != "1",
        reason="no real S3 server: set KILTER_TEST_S3=1 and the AWS_* variables",
    ),
]


def test_a_study_gives_the_same_scores_in_s3(finished: Finished, tmp_path: Path) -> None:
    import boto3

    bucket = f"kilter-e2e-{os.getpid()}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    study = tmp_path / "small.yaml"
    text = STUDY.read_text().replace("scenarios: [sft, instruct]", "scenarios: [sft]")
    study.write_text(text.replace("[dpo, kto, cpo]", "[dpo]").replace("[32, 64]", "[32]"))
    uri = f"s3://{bucket}/study"
    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    done = kilter("run", study, "--store", uri, "--out", tmp_path / "report", **credentials)
    assert done.returncode == 0, done.stderr
    again = kilter("run", study, "--store", uri, "--out", tmp_path / "report", **credentials)
    assert again.stderr.startswith("0 stages ran")
    here = {
        item.reference: item.summary["scores"]
        for item in Store.open(str(finished.store)).manifests("evaluate")
        if "scores" in item.summary
    }
    there = {
        item.reference: item.summary["scores"]
        for item in Store.open(uri).manifests("evaluate")
        if "scores" in item.summary
    }
    assert there
    assert there.items() <= here.items()
