import json
import runpy
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "compare_pretrained.py"


with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPT.parent)
    made = runpy.run_path(str(SCRIPT))


def line(way, seed, score, resampled, data="cuts", step=2.0):
    return {
        "data": data,
        "way": way,
        "seed": seed,
        "steps": 30,
        "distillation_steps": 0,
        "map": score,
        **{f"map@{threshold}": score for threshold in (0.3, 0.4, 0.5, 0.6, 0.7)},
        "per_class": {"kick": score},
        "curve": [[1, score / 2], [3, score]],
        "kept_mib": 100.0 if way == "plain" else 5.0,
        "peak_mib": 900,
        "step_seconds": step,
        "resampled": resampled,
    }


def test_every_way_of_the_comparison_is_a_recipe():
    for settings in made["WAYS"].values():
        made["load_recipe"](made["RECIPE"], settings)


def test_clips_have_a_table_of_their_own():
    entry = {**line("rewired", 0, 0.0, [], data="clips"), "top1": 0.75}
    heads, _, row = made["table"]([entry], "clips")
    assert "top-1" in heads and "at 0.3" not in heads
    assert [cell.strip() for cell in row.split("|")[1:4]] == ["rewired", "0.750", "0.750"]
    made["load_recipe"](made["RECIPE"], made["OF_CLIPS"])


def test_the_report_compares_in_pairs(tmp_path):
    values = np.linspace(0.4, 0.6, 101)
    lines = [
        line("plain", 0, 0.5, values.tolist()),
        line("plain", 1, 0.7, (values + 0.2).tolist()),
        line("rewired", 0, 0.4, (values - 0.1).tolist(), step=3.0),
        line("rewired", 0, 0.9, values.tolist(), data="borders"),
    ]
    ways = [made["of_way"](lines, *way) for way in (("cuts", "rewired"), ("borders", "rewired"), ("cuts", "plain"))]
    assert made["difference"](ways[0], ways[2]) == "-0.100 (-0.100 to -0.100)"
    assert made["difference"]({}, ways[2]) == made["difference"](ways[2], ways[2]) == ""
    heads, _, plain, rewired = made["table"](lines, "cuts")
    assert [cell.strip() for cell in plain.split("|")[1:4]] == ["plain", "0.600", "0.500 0.700"]
    assert [cell.strip() for cell in rewired.split("|")[-5:-1]] == ["5.0", "900", "1.50", "30"]
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    made["report"](results)
    assert "## borders" in results.with_suffix(".md").read_text()
    assert results.with_suffix(".png").stat().st_size > 1000
