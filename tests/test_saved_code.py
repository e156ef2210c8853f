"""The code in a model's folder: what the model uses, a user's own files with it, nothing of other families."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from architecture_cases import CASES
from own_files import OWN_FILES, examples, own_registrations, write_own_files
from run_factory import small_pipeline
from transformers.dynamic_module_utils import get_relative_import_files

import re2tal_hf
from re2tal_hf import Re2TALForVideoClassification, Re2TALModel
from re2tal_hf.saved_code import own_code
from re2tal_hf.training.own_files import import_files

PACKAGE = Path(re2tal_hf.__file__).parent
OWN_CONFIG = {
    "backbone_config": {"model_type": "residual_video", "width": 8, "depth": 2},
    "head_config": {"model_type": "single_level", "hidden_size": 16},
}


def code_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.py")}


def without_package(program: str, folder: Path) -> str:
    """Runs a program in a process of its own, which begins without the package and any code of a model; its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_model_carries_its_family_its_head_and_its_loss_as_they_are(tmp_path):
    small_pipeline().save_pretrained(tmp_path)
    code = code_in(tmp_path)
    changed = [name for name, text in code.items() if text != (PACKAGE / name).read_bytes()]
    assert changed == ["families.py"]
    own = {
        "backbone_rates.py",
        "backbone_swin.py",
        "head.py",
        "head_actionformer.py",
        "head_layers.py",
        "head_memory.py",
        "head_pyramid.py",
    }
    assert {name for name in code if name.startswith(("backbone_", "head", "network_"))} == own
    assert {name for name in code if name.startswith("loss_")} == {"loss_points.py", "loss_normalization.py"}
    # Nothing is left that no other file asks for.
    modules = ("modeling_re2tal", "configuration_re2tal", "video_processing_re2tal", "pipeline_re2tal")
    files = [tmp_path / f"{name}.py" for name in modules]
    needed = {Path(path).name for file in files for path in [file, *get_relative_import_files(file)]}
    assert code.keys() == needed


@pytest.mark.parametrize("kind", [Re2TALModel, Re2TALForVideoClassification])
def test_a_model_without_a_head_carries_none(kind, tmp_path):
    config = kind.config_class(backbone_config=small_pipeline().model.config.backbone_config, num_labels=2)
    kind(config).save_pretrained(tmp_path)
    code = code_in(tmp_path)
    of_heads = {name for name in code if name.startswith(("head", "loss_"))}
    assert of_heads == {"head.py", "head_layers.py", "head_memory.py"}
    assert "VideoSwin" in code["families.py"].decode() and "Head" not in code["families.py"].decode()


def test_a_save_takes_away_the_code_of_what_was_there(tmp_path):
    small_pipeline(head_config={"model_type": "tridet", "hidden_size": 16, "num_levels": 3}).save_pretrained(tmp_path)
    assert "head_tridet.py" in code_in(tmp_path)
    (tmp_path / "notes.py").write_text("")
    small_pipeline().save_pretrained(tmp_path)
    assert "head_tridet.py" not in code_in(tmp_path) and (tmp_path / "notes.py").exists()


WITHOUT_PACKAGE = """
import json, sys
sys.modules["re2tal_hf"] = None  # an import of it fails as if it were not installed
import torch
from transformers import AutoModel, AutoVideoProcessor

results = []
for folder, again in (("saved", "again"), ("again", "once more")):
    model, report = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(report.values()), report
    AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True).save_pretrained(again)
    model.save_pretrained(again)
    with torch.no_grad():
        output = model.eval()(torch.linspace(-1, 1, 16 * 3 * 32 * 32).reshape(1, 16, 3, 32, 32))
    results.append([type(model.head).__module__.split(".")[-1], output.logits.sum().item()])
print(json.dumps(results))
"""


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_files_that_travel_import_each_other_by_name(path):
    """Of `from . import x` the loaders of saved code do not see that it needs the file x."""
    imports = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    relative = [node for node in imports if node.level]
    if path.name == "__init__.py":  # which does not travel
        return
    assert all(node.level == 1 and node.module and "." not in node.module for node in relative)


FAMILIES_WITHOUT_PACKAGE = """
import sys
sys.modules["re2tal_hf"] = None
import torch
from transformers import AutoModel

for name, (videos, expected) in torch.load("expected.pt").items():
    model, report = AutoModel.from_pretrained(name, trust_remote_code=True, output_loading_info=True)
    assert not any(report.values()), (name, report)
    with torch.no_grad():
        found = model.eval()(videos).last_hidden_state
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max(), name
    model.train()(videos).last_hidden_state.square().mean().backward()
    print(name)
"""


@pytest.mark.training
def test_every_family_goes_to_a_process_without_the_package(tmp_path):
    expected = {}
    for case in CASES:
        torch.manual_seed(0)
        model = Re2TALModel(re2tal_hf.Re2TALConfig(backbone_config=case.config)).eval()
        model.save_pretrained(tmp_path / case.name)
        frames, height, width = case.shape
        videos = torch.randn(2, frames, 3, height, width)
        with torch.no_grad():
            expected[case.name] = videos, model(videos).last_hidden_state
    torch.save(expected, tmp_path / "expected.pt")
    assert without_package(FAMILIES_WITHOUT_PACKAGE, tmp_path).split() == [case.name for case in CASES]


@pytest.mark.training
def test_a_users_own_files_go_with_the_model_to_a_process_without_the_package(tmp_path):
    own, saved = tmp_path / "own", tmp_path / "saved"
    own.mkdir()
    with own_registrations():
        import_files(write_own_files(own))
        model = re2tal_hf.Re2TALForTemporalActionLocalization(re2tal_hf.Re2TALConfig(**OWN_CONFIG, num_labels=2)).eval()
        model.save_pretrained(saved)
    re2tal_hf.Re2TALVideoProcessor(size={"height": 32, "width": 32}, num_frames=16).save_pretrained(saved)
    code = code_in(saved)
    assert set(OWN_FILES) < code.keys() and not any(name.startswith(("backbone_", "head_p")) for name in code)
    assert [name for name, text in code.items() if name not in OWN_FILES and text != (PACKAGE / name).read_bytes()] == [
        "families.py"
    ]
    printed = without_package(WITHOUT_PACKAGE, tmp_path)
    with torch.no_grad():
        expected = model(torch.linspace(-1, 1, 16 * 3 * 32 * 32).reshape(1, 16, 3, 32, 32)).logits.sum().item()
    for head_file, found in json.loads(printed.splitlines()[-1]):
        assert head_file == "my_head" and found == pytest.approx(expected, rel=1e-5)
    assert code_in(tmp_path / "once more") == code


@pytest.mark.training
def test_a_head_built_on_another_goes_to_a_process_without_the_package(tmp_path):
    pipe = small_pipeline(head_config={"model_type": "spotting", "hidden_size": 16, "num_levels": 3})
    pipe.save_pretrained(tmp_path / "saved")
    assert {"head_spotting.py", "head_actionformer.py"} < code_in(tmp_path / "saved").keys()
    with torch.no_grad():
        expected = pipe.model(torch.linspace(-1, 1, 16 * 3 * 32 * 32).reshape(1, 16, 3, 32, 32)).logits.sum().item()
    for head_file, found in json.loads(without_package(WITHOUT_PACKAGE, tmp_path).splitlines()[-1]):
        assert head_file == "head_spotting" and found == pytest.approx(expected, rel=1e-5)


def test_the_head_of_the_documentation_has_less_than_40_lines():
    head, _ = examples()
    assert len(head.splitlines()) < 40


def test_imports_of_ours_are_made_flat_wherever_they_stand(tmp_path):
    (tmp_path / "my_layers.py").write_text("from re2tal_hf.head_layers import zero_padding\n")
    own = tmp_path / "my_head.py"
    own.write_text(
        "import os, torch  # as installed\n"
        "from re2tal_hf import (\n    Stage,  # of a stage\n    register_head as r,\n)  # two files\n"
        "if r:\n    from re2tal_hf.loss_points import LocalizationLoss as Ü, SAME_LENGTH\n"
        "from my_layers import zero_padding\nfrom .my_layers import *\nfrom .value_checks import COUNT\n"
    )
    code = own_code(own)
    assert code["my_layers.py"] == "from .head_layers import zero_padding\n"
    assert code["my_head.py"] == (
        "import os, torch  # as installed\n"
        "from .reversible import Stage\nfrom .head import register_head as r  # two files\n"
        "if r:\n    from .loss_points import LocalizationLoss as Ü, SAME_LENGTH\n"
        "from .my_layers import zero_padding\nfrom .my_layers import *\nfrom .value_checks import COUNT\n"
    )


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("import re2tal_hf", "write `from re2tal_hf import ...`"),
        ("import torch, re2tal_hf.head as h", "write `from re2tal_hf.head import ...`"),
        ("from re2tal_hf import head", "write `from re2tal_hf.module import ...`"),
        ("from re2tal_hf import *", "write `from re2tal_hf.module import ...`"),
        ("from re2tal_hf.data.windows import collate", "only files directly in re2tal_hf"),
        ("import my_layers", "write `from my_layers import ...`"),
        ("from . import my_layers", "write `from .module import ...`"),
        ("from ..somewhere import x", "write `from .module import ...`"),
        ("from my_package.deep import x", "into a file beside it"),
        ("if torch: from re2tal_hf import rewire", "a line of its own"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_its_line_and_a_remedy(text, remedy, tmp_path):
    (tmp_path / "my_layers.py").write_text("")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "deep.py").write_text("x = 1")
    (tmp_path / "my_head.py").write_text(f"import torch\n{text}\n")
    with pytest.raises(ValueError, match="my_head.py, line 2: ") as caught:
        own_code(tmp_path / "my_head.py")
    assert remedy in str(caught.value)


@pytest.mark.parametrize("name", ["head.py", "my-head.py", "2heads.py"])
def test_a_file_needs_a_name_of_its_own(name, tmp_path):
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=f"{name} cannot be saved with a model under this name"):
        own_code(tmp_path / name)


def test_a_class_of_no_file_is_said_and_the_weights_are_saved(tmp_path, caplog):
    with own_registrations():
        head, _ = examples()
        exec(compile(head.replace("single_level", "typed_in"), "typed in", "exec"), {"__name__": "__main__"})
        settings = {
            "backbone_config": {"model_type": "video_swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
            "head_config": {"model_type": "typed_in", "hidden_size": 16},
        }
        config = re2tal_hf.Re2TALConfig(**settings, num_labels=2)
        re2tal_hf.Re2TALForTemporalActionLocalization(config).save_pretrained(tmp_path)
    assert "SingleLevelHead is not saved with the model" in caplog.text
    assert (tmp_path / "model.safetensors").exists()
    assert "SingleLevelHead" not in (tmp_path / "families.py").read_text()
