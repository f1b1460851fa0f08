from __future__ import annotations

import json

from collabedit.messages import Covariance
from tests.cli.stats.running import stats_command


def test_show_prints_a_covariance(model_directory, corpus_file, tmp_path):
    out = tmp_path / "c.safetensors"
    stats_command(
        *("collect", "--model", model_directory, "--layers", "0", "--corpus", corpus_file),
        *("--tokens", 300, "-o", out, "--device", "cpu"),
    )
    table = stats_command("show", out)
    assert table.exit_code == 0, table.output
    assert "samples: 300" in table.stdout
    facts = json.loads(stats_command("show", out, "--json").stdout)
    covariance = Covariance.load(out)
    (name,) = covariance.second_moments
    row = facts["weights"][name]
    assert row["trace"] == float(covariance.second_moments[name].trace())
    assert row["sampling_error"] == covariance.sampling_error[name]
    assert facts["corpus"] == "corpus.txt"
