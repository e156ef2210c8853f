"""Annotations of other tools: read to the same segments, and refused with one line where they are malformed."""

import json
import random
from pathlib import Path

import pytest
from annotation_samples import CHARADES, ELAN, EPIC, SAMPLES, Sample

from re2tal_hf.commands.__main__ import main
from re2tal_hf.data.annotation_formats.annotation_file import AnnotationFile, ReadingSettings
from re2tal_hf.data.annotation_formats.formats import FORMATS, read_records, recognise
from re2tal_hf.data.annotation_set import AnnotationError
from re2tal_hf.data.annotations import read_annotations

CASES = [(kind, sample) for kind, samples in SAMPLES.items() for sample in samples]
each_sample = pytest.mark.parametrize(
    ("kind", "sample"), CASES, ids=[f"{kind}-{number}" for number, (kind, _) in enumerate(CASES)]
)


def written(folder: Path, sample: Sample) -> Path:
    path = folder / sample.name
    path.write_text(sample.content, encoding="utf-8", newline="")
    return path


def test_every_format_has_a_sample() -> None:
    assert SAMPLES.keys() == FORMATS.keys()


@each_sample
def test_a_file_is_recognised_and_read(kind: str, sample: Sample, tmp_path: Path) -> None:
    path = written(tmp_path, sample)
    found = recognise(AnnotationFile(path))
    assert (found.name if found else None) == (None if sample.asked else kind)
    records, used, _ = read_records(path, kind if sample.asked else None, ReadingSettings(**sample.options))
    assert used.name == kind
    actions = {
        record.video_id: [
            (pytest.approx(start), pytest.approx(end), label)
            for (start, end), label in zip(record.segments, record.labels, strict=True)
        ]
        for record in records
    }
    assert actions == sample.videos


@each_sample
def test_what_is_converted_is_read_by_training(
    kind: str, sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = written(tmp_path, sample), tmp_path / "out" / "ours.json"
    options = [f"--{key.replace('_', '-')}={value}" for key, value in sample.options.items()]
    options += ["--from", kind] if sample.asked else []
    assert main(["annotations", "convert", str(path), "--output", str(output), "--point-width", "0.5", *options]) == 0
    assert f"{path}: {FORMATS[kind].title}" in capsys.readouterr().out
    actions = [(a, b, label) for given in sample.videos.values() for a, b, label in given]
    read = read_annotations(output)
    assert [video.video_id for video in read.videos] == list(sample.videos)
    got = sorted(
        (start, end, read.label_names[label])
        for video in read.videos
        for (start, end), label in zip(video.segments.tolist(), video.labels, strict=True)
    )
    wanted = sorted((a, b, label) if a < b else (a - 0.25, b + 0.25, label) for a, b, label in actions)
    assert [label for *_, label in got] == [label for *_, label in wanted]
    for one, other in zip(got, wanted, strict=True):
        assert one[:2] == pytest.approx(other[:2], abs=1e-6)


def mutated(content: bytes, random_: random.Random) -> bytes:
    """A file with something cut, doubled, changed or put in."""
    data = bytearray(content)
    for _ in range(random_.randint(1, 3)):
        at = random_.randrange(len(data) + 1)
        to = min(len(data), at + random_.randint(1, 40))
        odd = random_.choice(
            [b"", b"\0", b"\xff", b'"', b"<", b"{", b"[]", b"null", b"-1", b"1e999", b"\n", b"x" * 300]
        )
        data[at:to] = random_.choice([odd, odd + data[at:to], data[at:to] * 2])
    return bytes(data)


def changed_value(content: bytes, random_: random.Random) -> bytes:
    """Of JSON, with one value of another kind."""
    value = json.loads(content)
    places = list(_places(value))
    holder, key = random_.choice(places)
    holder[key] = random_.choice([None, True, -1, 1e300, "", "x", [], {}, [None], {"a": 1}, "\u200b", 10**30])
    return json.dumps(value).encode()


def _places(value):
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


@each_sample
def test_malformed_files_end_in_one_line_that_names_them(kind: str, sample: Sample, tmp_path: Path) -> None:
    refused = 0
    for seed in range(60):
        random_ = random.Random(seed)
        content = sample.content.encode()
        change = changed_value if content[:1] in (b"{", b"[") and seed % 2 else mutated
        path = tmp_path / sample.name
        path.write_bytes(change(content, random_))
        for asked in (None, kind):
            try:
                read_records(path, asked, ReadingSettings(**sample.options))
            except AnnotationError as error:
                refused += 1
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 1000
    assert refused


def test_a_doctype_is_refused_before_anything_of_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.eaf"
    entity = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
    path.write_text(ELAN.replace("<ANNOTATION_DOCUMENT", f"{entity}<ANNOTATION_DOCUMENT", 1).replace("jump", "&e;"))
    with pytest.raises(AnnotationError, match=r"a\.eaf: line 2: a DOCTYPE is not read"):
        read_records(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "video;start_frame;end_frame;action\nb.mp4;15;30;kick\n", "line 2, start: times are frames"),
        ("a.csv", "file,start,end,label\na.mp4,x,3,kick\n", "line 2, start: 'x' is not a number of seconds"),
        ("a.csv", "file,start,end,label\na.mp4,1,3,\n", "line 2: '' is no label"),
        ("a.csv", 'file,start,end,label\n"a.mp4,1,3,kick\n', "mend its quotes"),
        ("a.json", "", "this file of annotations is empty; write it again"),
        ("a.txt", "kick\nkick\n", "its content does not show what wrote it; say --from"),
        ("a.srt", "1\n00:00:01,500 --> 3\nkick\n\n2\n00:00:01,500 --> 00:00:03,000\nx\n", "does not show what"),
        ("a.srt", "1\n00:00:01,500 --> 00:00:03,000\n\n", "line 2: '' is no label"),
        ("a.xml", "<a>" * 100, "more than 64 deep"),
        (
            "a.csv",
            "Source,Behavior,Behavior type,Time,Media file name\nplayer #1:a.mp4;b.mp4,hit,POINT,3,b.mp4\n",
            "line 2: times of several files in a queue",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(AnnotationError) as raised:
        read_records(path)
    assert str(raised.value).startswith(f"{path}: ") and message in str(raised.value)


def test_a_missing_file_is_named_in_our_own_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, wrong in ((tmp_path / "a.srt", "does not exist"), (tmp_path, "is a folder; name the file in it")):
        assert main(["annotations", "convert", str(path), "--output", str(tmp_path / "b.json")]) == 1
        assert capsys.readouterr().err == f"error: {path}: this file of annotations {wrong}\n"


def test_the_command_says_what_is_wrong_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "a.srt", tmp_path / "new" / "b.json"
    source.write_text("1\n00:00:01,500 --> 00:00:03,000\n\n")
    assert main(["annotations", "convert", str(source), "--output", str(output)]) == 1
    assert capsys.readouterr().err == f"error: {source}: line 2: '' is no label; name the action\n"
    assert not output.parent.exists()


def converted(folder: Path, files: dict[str, str], *options: str) -> Path:
    for name, content in files.items():
        (folder / name).write_text(content)
    output = folder / "ours.json"
    assert (
        main(["annotations", "convert", *(str(folder / name) for name in files), "--output", str(output), *options])
        == 0
    )
    return output


@pytest.mark.parametrize(
    ("train", "held_out", "content", "video_id", "options"),
    [
        ("EPIC_100_train.csv", "EPIC_100_validation.csv", EPIC, "P01_01", ["--from", "epic-actions"]),
        ("Charades_v1_train.csv", "Charades_v1_test.csv", CHARADES, "46GP8", []),
    ],
)
def test_the_names_of_published_tables_tell_their_subsets(
    train, held_out, content, video_id, options, tmp_path
) -> None:
    other = content.replace(video_id, "other").replace("N11GT", "none")
    output = converted(tmp_path, {train: content, held_out: other}, *options)
    subset = "validation" if "validation" in held_out else "testing"
    found = {name: read_annotations(output, subset=name).videos for name in ("training", subset)}
    assert [videos[0].video_id for videos in found.values()] == [video_id, "other"]


# As the published tables have them.
VERB_NAMES = "id,key,instances,category\n6,turn-on,\"['turn-on', 'start']\",access\n3,zip,\"['zip']\",access\n"
NOUN_NAMES = (
    '"id","key","instances","category"\n3,"cupboard","[\'cupboard\', \'door\']","storage"\n114,"light","[]","other"\n'
)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("epic-verbs", ["zip", "turn-on"]),
        ("epic-nouns", ["cupboard", "light"]),
        ("epic-actions", ["turn-on,light", "zip,cupboard"]),
    ],
)
def test_classes_of_epic_kitchens_by_the_names_in_its_tables(kind, names, tmp_path) -> None:
    tables = {"EPIC_100_verb_classes.csv": VERB_NAMES, "EPIC_100_noun_classes_v2.csv": NOUN_NAMES}
    for name, content in tables.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    classes = ["--classes", *(str(tmp_path / name) for name in tables)]
    output = converted(tmp_path, {"EPIC_100_train.csv": EPIC}, "--from", kind, *classes)
    found = read_annotations(output)
    assert found.label_names == names  # verbs and nouns by their ids, 3 before 6, as without names
    [video] = found.videos
    assert [found.label_names[label] for label in video.labels] == sorted(names, reverse=kind != "epic-nouns")


@pytest.mark.parametrize(
    ("kind", "tables", "message"),
    [
        ("epic-verbs", {"noun.csv": NOUN_NAMES}, "give --classes one table of the verbs, called as EPIC_100_verb_clas"),
        ("epic-actions", {"verb.csv": VERB_NAMES}, "give --classes one table of the nouns"),
        ("epic-verbs", {"a_verb.csv": VERB_NAMES, "verb.csv": VERB_NAMES}, "give --classes one table of the verbs"),
        ("epic-verbs", {"verb.csv": None}, "verb.csv: this table of classes does not exist"),
        ("epic-verbs", {"verb.csv": VERB_NAMES.replace("6,", "7,")}, "verb_class: there is no class 6 in the table"),
        ("epic-verbs", {"verb.csv": VERB_NAMES.replace("3,", "6,")}, "line 3: class 6, 'zip', is there twice"),
        ("epic-verbs", {"verb.csv": VERB_NAMES.replace("zip", "turn-on")}, "class 3, 'turn-on', is there twice"),
        ("epic-verbs", {"verb.csv": VERB_NAMES.replace("key", "name")}, "there is no column 'key'"),
        ("epic-verbs", {"verb.csv": VERB_NAMES.replace("6,", "x,")}, "id is 'x'; it must be the number of a class"),
        (None, {"verb.csv": VERB_NAMES}, "whose classes --classes does not name; leave it out"),
    ],
)
def test_tables_of_classes_that_do_not_fit(kind, tables, message, tmp_path, capsys) -> None:
    for name, content in tables.items():
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
    source = tmp_path / ("EPIC_100_train.csv" if kind else "match.eaf")
    source.write_text(EPIC if kind else ELAN, encoding="utf-8")
    arguments = [str(source), "--output", str(tmp_path / "a.json"), *(["--from", kind] if kind else [])]
    assert main(["annotations", "convert", *arguments, "--classes", *(str(tmp_path / name) for name in tables)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(("ids", "names"), [((7, 2), ["walk", "sit"]), ((7, None), ["sit", "walk"])])
def test_ids_of_labels_are_kept_where_all_have_one(ids, names, tmp_path) -> None:
    actions = [
        {"segment": [0, 1], "label": label, **({} if number is None else {"label_id": number})}
        for label, number in zip(("sit", "walk"), ids, strict=True)
    ]
    entries = {"v": {"subset": "training", "duration": 9, "annotations": actions}}
    output = converted(tmp_path, {"a.json": json.dumps({"database": entries})})
    assert read_annotations(output).label_names == names


def test_the_classes_of_multithumos_come_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "video_validation_0000266 2.80 6.40\n"
    files = {"Sit.txt": line + line.replace("validation", "test"), "Walk.txt": line.replace("6.40", "5")}
    output = converted(tmp_path, {**files, "Ambiguous_val.txt": line})
    assert "not read: segments that are Ambiguous" in capsys.readouterr().out
    found = read_annotations(output, subset="validation")
    [video] = found.videos
    assert found.label_names == ["Sit", "Walk"] and sorted(video.labels) == [0, 1]
    assert sorted(video.segments.tolist()) == [[2.8, 5], [2.8, 6.4]]
