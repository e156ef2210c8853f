"""What `re2tal benchmark` covers and writes; its runs are tested in `test_trainer.py`."""

import argparse
import json
import weakref

import pytest
import torch

from re2tal_hf.architecture import BACKBONES
from re2tal_hf.commands._benchmark_backbones import DEEPER, FAMILIES
from re2tal_hf.commands._benchmark_report import SHOWN, draw_report, entries_before, write_report
from re2tal_hf.commands.benchmark import AS_SHIPPED, INFERENCE, count_kept
from re2tal_hf.training.memory import saved_for_backward

SMALL = {
    "model_type": "video_swin", "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": [2, 3, 3],
}  # fmt: skip


class Held:
    """Lives as long as the node of a graph that holds it."""


def entry(name: str, backbone: dict, deeper: bool) -> dict:
    row = {"kept_mib": 8.0, "peak_mib": 20.0, "forward_seconds": 0.1, "step_seconds": 0.3, "ratio": 1.3}
    counted = [{"axis": "", "factor": "", "leanest_mib": 2.0, "plain_mib": 8.0}]
    if deeper:
        counted.append({"axis": "depth", "factor": "deeper", "leanest_mib": 2.0, "plain_mib": 16.0})
    rows = dict.fromkeys((AS_SHIPPED, *SHOWN, INFERENCE), row)
    common = {"shape": "1x8x3x32x32", "precision": "fp32"}
    return {"name": name, "backbone": backbone, **common, "rows": rows, "counted": counted}


def test_every_registered_backbone_is_measured():
    # Other tests may have registered some of their own.
    ours = {name for name, family in BACKBONES.items() if type(family).__module__.startswith("re2tal_hf.")}
    assert {backbone["model_type"] for backbone in FAMILIES} == ours - {"features"}
    known = {value for backbone in FAMILIES for value in (backbone["model_type"], backbone.get("variant"))}
    assert DEEPER.keys() <= known


def test_the_report_holds_machine_versions_and_rows(tmp_path):
    entries = [entry("one", SMALL, True), entry("other", SMALL, False)]
    write_report(str(tmp_path / "found"), entries, "cpu")
    report = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert report["machine"].startswith("CPU, ") and {"torch", "python", "timm"} <= report["versions"].keys()
    assert report["backbones"] == entries
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"found.json", "found.md", "found.png"}
    page = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert report["machine"] in page and f"torch {report['versions']['torch']}" in page and "(found.png)" in page
    assert "| one | 1x8x3x32x32 | 8.0 | 8.0 (1.30) | 8.0 (1.30) | 8.0 (1.30) | 1.0x | 20 | 0.10 |" in page
    assert "| one | 8 / 2.0 | 16 / 2.0 |  |  |  |" in page and "| other | 8 / 2.0 |  |  |  |  |" in page
    _, times, growth = draw_report(report).axes
    assert [bar.get_width() for bar in times.patches] == [1.3] * 6
    plotted = sorted(line.get_xdata()[0] for line in growth.lines if line.get_marker() == "o" and len(line.get_xdata()))
    assert plotted == [1.0, 2.0]  # leanest and plain, deeper


def test_a_report_is_gone_on_with_on_the_same_machine_only(tmp_path):
    name, entries = str(tmp_path / "found"), [entry("one", SMALL, True)]
    assert entries_before(name, "cpu") == []
    write_report(name, entries, "cpu")
    assert entries_before(name, "cpu") == entries
    report = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    report["versions"]["torch"] = "1.0"
    (tmp_path / "found.json").write_text(json.dumps(report), encoding="utf-8")
    assert entries_before(name, "cpu") == []
    for text in ("[]", "{}", "no JSON"):
        (tmp_path / "found.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"found\.json is no report of this command"):
            entries_before(name, "cpu")


def test_a_graph_whose_kept_bytes_were_counted_is_freed():
    weight = torch.ones(4, 4, requires_grad=True)
    with saved_for_backward([weight]) as saved:
        output = (weight @ weight).softmax(0).sum()
    assert saved.total() == 64  # of the softmax's output
    graph = weakref.ref(output.grad_fn.next_functions[0][0].metadata.setdefault("held", Held()))
    del output
    assert graph() is None


@pytest.mark.training
def test_kept_bytes_are_counted_for_larger_inputs():
    arguments = argparse.Namespace(frames=8, size=32, precision="fp32", device="cpu")
    base, *changed = count_kept(arguments, SMALL)
    grown = {(c["axis"], c["factor"]): c["plain_mib"] / base["plain_mib"] for c in changed}
    assert grown.keys() == {("frames", "x2"), ("frames", "x4"), ("size", "x2"), ("precision", "bf16")}
    assert grown["frames", "x2"] == pytest.approx(2, rel=0.05) and grown["frames", "x4"] == pytest.approx(4, rel=0.05)
    assert grown["precision", "bf16"] < 0.8 < 3 < grown["size", "x2"]
    assert all(c["leanest_mib"] < c["plain_mib"] / 2 for c in (base, *changed))


def test_deeper_ones_are_settings_of_their_families():
    for backbone in FAMILIES:
        settings = {**backbone, **DEEPER.get(backbone["model_type"], DEEPER.get(backbone.get("variant", ""), {}))}
        BACKBONES.find(settings.pop("model_type")).check(settings)
