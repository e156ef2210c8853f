"""ELAN's annotation documents (.eaf), by the types of its schema (timeType, alignableType)."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from .annotation_file import AnnotationFile, Videos
from .format import Format, VideoToWrite, Writer, lanes


def recognises(file: AnnotationFile) -> bool:
    return file.xml is not None and file.xml.tag == "ANNOTATION_DOCUMENT"


def read(file: AnnotationFile) -> Videos:
    """Reads the annotations of all tiers that have times of their own; one without a value has the tier's name."""
    root = file.xml
    assert root is not None
    unit = next((header.get("TIME_UNITS", "milliseconds") for header in root.iter("HEADER")), "milliseconds")
    if unit != "milliseconds":
        raise file.error(f"TIME_UNITS is {unit[:50]!r}; save it with milliseconds", "HEADER")
    names = [media.get("RELATIVE_MEDIA_URL") or media.get("MEDIA_URL") for media in root.iter("MEDIA_DESCRIPTOR")]
    video_id = file.video_id(names[0], "MEDIA_DESCRIPTOR") if names and names[0] else file.own_video_id
    if len(names) > 1:
        file.notes.append(f"{len(names)} media files; the actions are taken to be of {video_id}")
    times = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    videos, tiers, passed = Videos(), [], 0
    videos.add_video(video_id)
    for tier in root.iter("TIER"):
        name = tier.get("TIER_ID", "")
        annotations = list(tier.iter("ALIGNABLE_ANNOTATION"))
        tiers.append(f"{name[:50]} ({len(annotations)})")
        for annotation in annotations:
            place = f"tier {name[:50]!r}, annotation {annotation.get('ANNOTATION_ID', '')[:50]!r}"
            slots = [annotation.get(f"TIME_SLOT_REF{number}") for number in (1, 2)]
            if unknown := [slot for slot in slots if slot not in times]:
                raise file.error(f"there is no TIME_SLOT {str(unknown[0])[:50]!r}", place)
            # Within a subdivided annotation only the first slot and the last need have a time.
            if None in (given := [times[slot] for slot in slots]):
                passed += 1
                continue
            start, end = (file.seconds(time, place, "milliseconds") for time in given)
            value = annotation.findtext("ANNOTATION_VALUE") or ""
            videos.add(video_id, start, end, file.label(value if value.strip() else name, place))
    if passed:
        file.notes.append(f"{passed} annotations whose time slots have no time were passed over")
    file.notes.append(f"annotations with times by tier: {', '.join(tiers)}")
    return videos


def text(videos: Sequence[VideoToWrite]) -> str:
    """A document of one video; on a tier no two annotations overlap, so there are as many tiers as it takes."""
    [video] = videos
    root = Element("ANNOTATION_DOCUMENT", AUTHOR="re2tal_hf", DATE=_DATE, FORMAT="3.0", VERSION="3.0")
    header = SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    media = {"MEDIA_URL": video.name, "RELATIVE_MEDIA_URL": f"./{video.name}", "MIME_TYPE": "video/mp4"}
    SubElement(header, "MEDIA_DESCRIPTOR", media)
    SubElement(header, "PROPERTY", NAME="lastUsedAnnotationId").text = str(len(video.actions))
    order = SubElement(root, "TIME_ORDER")
    tiers: list[Element] = []
    for number, (lane, (start, end, label)) in enumerate(zip(lanes(video.actions), video.actions, strict=True)):
        if lane == len(tiers):
            name = "actions" if lane == 0 else f"actions {lane + 1}"
            tiers.append(SubElement(root, "TIER", LINGUISTIC_TYPE_REF="default-lt", TIER_ID=name))
        slots = {f"TIME_SLOT_REF{place}": f"ts{2 * number + place}" for place in (1, 2)}
        for slot, time in zip(slots.values(), (start, end), strict=True):
            SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(round(1000 * time)))
        annotation = SubElement(tiers[lane], "ANNOTATION")
        aligned = SubElement(annotation, "ALIGNABLE_ANNOTATION", {"ANNOTATION_ID": f"a{number + 1}", **slots})
        SubElement(aligned, "ANNOTATION_VALUE").text = label
    if not tiers:
        SubElement(root, "TIER", LINGUISTIC_TYPE_REF="default-lt", TIER_ID="actions")
    kind = {"LINGUISTIC_TYPE_ID": "default-lt", "TIME_ALIGNABLE": "true", "GRAPHIC_REFERENCES": "false"}
    SubElement(root, "LINGUISTIC_TYPE", kind)
    indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


# The same file for the same actions.
_DATE = "2026-01-01T00:00:00+00:00"
_WRITER = Writer(".eaf", text, together=False)
FORMAT = Format("elan", "an annotation document of ELAN", recognises, read, _WRITER)
