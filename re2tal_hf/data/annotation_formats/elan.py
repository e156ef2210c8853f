"""ELAN's annotation documents (.eaf), by the types of its schema (timeType, alignableType)."""

from __future__ import annotations

from .annotation_file import AnnotationFile, Videos
from .format import Format


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


FORMAT = Format("elan", "an annotation document of ELAN", recognises, read)
