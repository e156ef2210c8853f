"""A camera on the loopback: an RTSP server that shows H.264 files, for tests.

Control as RFC 2326 has it, as little as a client needs; RTP on the same connection (its section 10.12), the pictures
split into packets as RFC 6184 has it.
"""

import contextlib
import re
import socketserver
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import av

MAX_PAYLOAD = 1200
FIRST_SEQUENCE, FIRST_TIME, SOURCE_ID = 65_530, 1_000_000, 7
FRAGMENT = 28  # FU-A
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:video\r\n"
)


def payloads(unit: bytes) -> Iterator[bytes]:
    """A NAL unit as it is, or in fragments."""
    if len(unit) <= MAX_PAYLOAD:
        yield unit
        return
    kind, rest = unit[0] & 31, unit[1:]
    for first in range(0, len(rest), MAX_PAYLOAD):
        part = rest[first : first + MAX_PAYLOAD]
        begins, ends = first == 0, first + len(part) == len(rest)
        yield bytes([unit[0] & 224 | FRAGMENT, begins << 7 | ends << 6 | kind]) + part


def rtp_packets(path: Path) -> Iterator[bytes]:
    """The pictures of an MPEG-TS file of H.264 without B-frames, its clock moved."""
    with av.open(str(path)) as container:
        pictures = [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size]
    number = FIRST_SEQUENCE
    for pts, picture in pictures:
        units = [unit for unit in re.split(rb"\x00\x00\x00?\x01", picture) if unit]
        parts = [payload for unit in units for payload in payloads(unit)]
        for place, payload in enumerate(parts):
            marker = place == len(parts) - 1
            time = (FIRST_TIME + pts - pictures[0][0]) % 2**32
            yield struct.pack(">BBHII", 0x80, marker << 7 | 96, number % 2**16, time, SOURCE_ID) + payload
            number += 1


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while request := self.rfile.readline().decode():
            fields = dict(line.split(": ", 1) for line in iter(lambda: self.rfile.readline().decode().strip(), ""))
            method = request.split()[0]
            if method == "DESCRIBE" and not self.server.shows:
                self.answer(fields, "503 Service Unavailable")
                return
            more = {
                "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n",
                "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n",
                "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n",
            }.get(method, "")
            self.server.transports += [fields["Transport"]] if method == "SETUP" else []
            self.answer(fields, "200 OK", more, SDP if method == "DESCRIBE" else "")
            if method == "PLAY":
                path, ending = self.server.shows.pop(0)
                with contextlib.suppress(OSError):
                    for packet in rtp_packets(path):
                        self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                if ending == "silence":
                    self.server.left.wait()
                return

    def answer(self, fields: dict[str, str], status: str, more: str = "", content: str = "") -> None:
        text = f"RTSP/1.0 {status}\r\nCSeq: {fields['CSeq']}\r\nSession: 1\r\n{more}\r\n{content}"
        self.wfile.write(text.encode())


@contextlib.contextmanager
def rtsp_camera(shows: list[tuple[Path, str]]) -> Iterator[tuple[str, list[str]]]:
    """Serves a camera; gives its address and the transports that clients have asked for.

    Args:
        shows: what it sends on each connection that plays, as fast as it is taken, and then: "closed" hangs up,
            "silence" sends nothing any more. After the last one it is not available.
    """
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Session) as server:
        server.shows, server.left, server.transports = list(shows), threading.Event(), []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"rtsp://127.0.0.1:{server.server_address[1]}/camera", server.transports
        finally:
            server.left.set()
            server.shutdown()
            thread.join()
