"""Writes the XMP packet that says that a model made an image (IPTC Photo Metadata Standard, Digital Source Type)."""

from __future__ import annotations

from typing import Literal
from xml.sax.saxutils import quoteattr

from converter import __version__

#: IPTC's names of an image's origin, at https://cv.iptc.org/newscodes/digitalsourcetype: "created using generative AI", and
#: "edited using generative AI", "such as with inpainting or outpainting operations".
SourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]
_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
#: Fixed by the XMP specification (ISO 16684-1, 7.3.2): it lets readers find a packet without knowing the file's format.
_PACKET_ID = "W5M0MpCehiHzreSzNTczkc9d"


def source_type(*, has_source: bool) -> SourceType:
    """Return how an image came about: made anew, or (``has_source``) from an image that a client sent.

    Images that only guide, for a palette, a style or a shape, are no source: none of their pixels is in the result.
    """
    return "compositeWithTrainedAlgorithmicMedia" if has_source else "trainedAlgorithmicMedia"


def xmp_packet(kind: SourceType) -> bytes:
    """Return the XMP packet, in UTF-8, with the Digital Source Type and the program's name."""
    return (
        f'<?xpacket begin="\ufeff" id="{_PACKET_ID}"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" xmp:CreatorTool={quoteattr(f'Anemone {__version__}')}"
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(_VOCABULARY + kind)}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()
