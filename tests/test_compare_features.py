import argparse
import runpy
from pathlib import Path

import pytest

from re2tal_hf.commands.features import add_options
from re2tal_hf.training.arguments import load_recipe

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "compare_features.py"


with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPT.parent)
    made = runpy.run_path(str(SCRIPT))


def line(way, seed, score, source="cuts", **own):
    scores = {f"map@{threshold}": score for threshold in made["THRESHOLDS"]}
    return {"data": source, "way": way, "seed": seed, "map": score, **scores, "resampled": [score] * 5, **own}


def test_every_way_is_a_command_and_the_head_a_recipe():
    parser = argparse.ArgumentParser()
    add_options(parser)
    for way in made["WAYS"].values():
        words = [word.format(weights="lite0.pth", trained=["one", "two", "three"]) for word in way]
        options = parser.parse_intermixed_args([*words, "--videos", "v", "--output", "o"])
        if options.recipe:
            load_recipe(options.recipe, options.overrides)
    load_recipe(made["RECIPE"][1], made["RECIPE"][2:])


def test_the_table_has_features_beside_what_was_trained_end_to_end():
    cut = {"stride_seconds": 0.2, "size": 8, "encoded_frames": 5.0}
    lines = [line(made["BASE"], seed, score, **cut) for seed, score in enumerate((0.5, 0.7))]
    lines += [line("trained, overlap 0.5", 0, 0.8, **cut | {"encoded_frames": 10.0})]
    heads, _, base, trained, rewired = made["table"](lines, [line("rewired", 0, 0.9)])
    assert heads.split("|")[5].strip() == "mAP, mean and deviation"
    assert [cell.strip() for cell in base.split("|")[2:5]] == ["0.2 s", "5 frames a second", "8"]
    assert [cell.strip() for cell in base.split("|")[5:7]] == ["0.600 ± 0.141", "0.500 0.700"]
    assert "10 frames a second" in trained and "+0.300 (+0.300 to +0.300)" in trained
    assert rewired.split("|")[1].strip() == "end to end: rewired" and "+0.400" in rewired
