"""YAML of recipes: what is read as in YAML 1.2, and what every broken kind of it ends in."""

from importlib import resources

import pytest
import yaml

from re2tal_hf.training.arguments import load_recipe, recipe_names
from re2tal_hf.training.recipe_yaml import MAX_BYTES, read_yaml, write_yaml


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_the_same_in_both_versions_of_yaml(name):
    text = (resources.files("re2tal_hf") / "recipes" / f"{name}.yaml").read_text()
    assert read_yaml(text, name) == yaml.safe_load(text)


def test_yaml_comes_back_as_it_was():
    texts = ["1e5", "no", "010", "1:30", "0o7", "0x", "null", "", "~", "2024-01-01", "true", "a: b", ".nan", "-", "é"]
    values = {"texts": texts, "numbers": [0, -1, 10, 1e-5, 1e300, 0.1], "others": [True, None, {}, []]}
    assert read_yaml(write_yaml(values), "values") == values
    assert read_yaml("[0x1F, 0o17, 010, 1., +1e3]", "numbers") == [31, 15, 10, 1.0, 1000.0]


def test_no_key_twice(tmp_path):
    (tmp_path / "own.yaml").write_text("seed: 4\ntraining:\n  epochs: 2\n  batch_size: 1\n  epochs: 3\n")
    with pytest.raises(ValueError, match=r"own.yaml: 'epochs' is given twice, in line 3 and in line 5"):
        load_recipe(str(tmp_path / "own.yaml"))
    assert read_yaml("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n", "merged")["b"] == {"x": 3, "y": 2}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "an alias stands for what it is part of"),
        ("&a {b: {c: *a}}", "an alias stands for what it is part of"),
        ("a: &a\n  <<: *a\n", "an alias stands for what it is part of"),
        (BOMB, "more than 16384 values"),
        ("[" * 5000, "too deep"),
        ("[" * 30 + "]" * 30, "more than 20 deep"),
        ("- " * 3000 + "a", "too deep"),
        ("x" * (MAX_BYTES + 1), "too large"),
        ("a: 1\n---\nb: 2\n", "found another document .line 2"),
        ("? [1, 2]\n: 3", "a key must be text, not a list"),
        ("1: 2", "a key must be text, not '1'"),
        ("a:\n  null: 2", "a key must be text, not 'null', which YAML reads as null .line 2"),
        ("a: !!python/object:os.system x", "the tag python/object:os.system"),
        ("a: !!binary aGVsbG8=", "the tag binary"),
        ("a: !!timestamp 2001-01-01", "the tag timestamp"),
        ("a: !!set {b, c}", "the tag set"),
        ("a: !mine 3", "the tag !mine"),
        ("a: !!int abc", "'abc' is no int"),
        ("a: !!bool maybe", "'maybe' is no bool"),
        ("a: " + "9" * 5000, "is no int"),
        ("a: *b", "undefined alias"),
        ("a:\n\t- b", "cannot start any token .line 2, column 1"),
        ("a: 'b", "end of stream"),
        ("<<: 3", "<< takes a mapping"),
        ("a: \xe9".encode("latin-1"), "no text in UTF-8"),
        ("a: 1".encode("utf-16-le"), "no text in UTF-8"),
        (b"\x00\x01\xff", "no text in UTF-8"),
    ],
)
def test_broken_yaml_ends_in_one_line_with_its_source(text, message):
    with pytest.raises(ValueError, match=f"^own.yaml.*{message}") as raised:
        read_yaml(text, "own.yaml")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_editors_write_are_read(encoding):
    assert read_yaml("a: [1, é]\n".encode(encoding), "own.yaml") == {"a": [1, "é"]}


def test_what_is_no_file_of_a_recipe(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give a YAML file in it"):
        load_recipe(str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("seed: 1")
    with pytest.raises(ValueError, match="is a folder; did you mean .*recipe.yaml"):
        load_recipe(str(tmp_path))
    with pytest.raises(ValueError, match="There is no recipe 'quickstrat'; did you mean 'quickstart'"):
        load_recipe("quickstrat")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="large.yaml is too large"):
        load_recipe(str(tmp_path / "large.yaml"))


@pytest.mark.parametrize("text", ["[a, b]", "3", "text"])
def test_a_recipe_is_a_mapping(text, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match="own.yaml: .* must be sections with fields"):
        load_recipe(str(tmp_path / "own.yaml"))


def test_a_recipe_says_what_differs_from_its_base(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("base: epic_nouns_actionformer\nmodel: {head_config: {hidden_size: 64}}\ntraining:\nseed: 3\n")
    recipe, base = load_recipe(str(own), ["training.epochs=2"]), load_recipe("epic_nouns_actionformer")
    assert recipe.model["head_config"] == base.model["head_config"] | {"hidden_size": 64}
    assert recipe.model["loss_config"]["label_smoothing"] == 0.1
    assert (recipe.training.epochs, recipe.training.schedule_epochs) == (2, base.training.schedule_epochs)
    assert (recipe.seed, recipe.name, recipe.processor) == (3, "own", base.processor)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("quikstart", "base is 'quikstart', which is no recipe of the package; did you mean 'quickstart'?"),
        ("auto", "base is 'auto', which is no recipe of the package"),
        ("own.yaml", "base is 'own.yaml', which is no recipe of the package"),
        ("[quickstart]", "base is .*quickstart.*, which is no recipe of the package"),
        ("3", "base is 3, which is no recipe of the package"),
    ],
)
def test_another_base_is_refused(base, message, tmp_path):
    (tmp_path / "own.yaml").write_text(f"base: {base}\n")
    with pytest.raises(ValueError, match=message):
        load_recipe(str(tmp_path / "own.yaml"))
