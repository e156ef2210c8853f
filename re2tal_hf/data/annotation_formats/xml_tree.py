"""XML of others: elements, attributes and text, and nothing that a document could define or fetch."""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..annotation_set import AnnotationError

MAX_DEPTH = 64
MAX_ELEMENTS = 5_000_000


def parse_xml(content: bytes, where: str) -> Element:
    """Returns the root of the elements of a document.

    A document with a DOCTYPE is refused, for entities and external references are declared there only.

    Args:
        content: In any encoding that expat reads.
        where: What messages call it.

    Raises:
        AnnotationError: It is no XML, has a DOCTYPE, or is nested deeper or longer than annotations are.
    """
    builder, parser = TreeBuilder(), expat.ParserCreate()
    counts = {"depth": 0, "elements": 0}

    def refuse(reason: str) -> None:
        raise AnnotationError(f"{where}: line {parser.CurrentLineNumber}: {reason}")

    def start(tag: str, attributes: dict[str, str]) -> None:
        counts["depth"] += 1
        counts["elements"] += 1
        if counts["depth"] > MAX_DEPTH or counts["elements"] > MAX_ELEMENTS:
            refuse(f"elements more than {MAX_DEPTH} deep or {MAX_ELEMENTS} in number are no annotations")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        counts["depth"] -= 1
        builder.end(tag)

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = lambda *declared: refuse("a DOCTYPE is not read; remove it")
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{where}: not well-formed XML ({' '.join(str(error).split())[:200]})") from error
    return builder.close()
