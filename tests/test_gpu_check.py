"""The table at the end of gpu_check.sh: how each step ended, and the figures beside their aims."""

import json

from gpu_check_table import AIMS, table


def test_the_table_has_every_step_and_every_figure_that_a_step_left(tmp_path):
    (tmp_path / "steps.tsv").write_text("tests_gpu\t0\t31\nsample\tover its 150 s\t150\ntrain\t1\t3\n")
    (tmp_path / "tests_gpu.log").write_text("....\n4 passed in 30.1s\n")
    (tmp_path / "sample.log").write_text("output/stage3_t2m_sft is finished after 1.5 minutes.\n")
    (tmp_path / "train.log").write_text("")
    recipe = {"clips_per_second": 300.0, "share_of_peak": 0.41}
    (tmp_path / "train.json").write_text(json.dumps({
        "machine": {"processor": "x", "gpu": "a card", "torch": "2"},
        "figures": {"peak": {"gflops": 700_000, "dtype": "bfloat16"}, "ours": recipe}}))
    shown = table(tmp_path)
    for line in ("tests_gpu     passed                    31 s  4 passed in 30.1s",
                 "sample        FAILED (over its 150 s)   150 s", "train         FAILED (1)                 3 s",
                 "a card, torch 2", "sample, minutes", "0.41  aim: 0.4", "700,000"):
        assert line in shown
    for name in ("decode", "decode_large"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"figures": {"batches": {
            str(count): {"ours": {"tokens_per_second": 100.0, "share_of_bandwidth": 0.5}, "ratio": 6.0}
            for count in (1, 32)}}}))
    assert all(name in table(tmp_path) for name in AIMS)
