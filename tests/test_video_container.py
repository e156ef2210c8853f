import io
import struct

import av
import numpy as np
import pytest
from video_factory import frame_numbers, numbered_frames, write_video

from re2tal_hf.video_container import VideoReadError, open_container
from re2tal_hf.video_reader import VideoReader

av.logging.set_level(av.logging.PANIC)

COUNT, RATE = 12, 25
# Muxer, codec, and what else writing asks for: what people have, and what FFmpeg writes besides.
CONTAINERS = [
    ("mp4", "libx264", {}),
    ("mp4", "libx264", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    ("mov", "prores_ks", {"pixel_format": "yuv422p10le"}),
    ("3gp", "libx264", {}),
    ("ipod", "libx264", {}),
    ("f4v", "libx264", {}),
    ("ismv", "libx264", {}),
    ("matroska", "libx264", {}),
    ("webm", "libvpx", {}),
    ("webm", "libvpx-vp9", {}),
    ("avi", "libx264", {}),
    ("avi", "mpeg4", {}),
    ("avi", "mjpeg", {"pixel_format": "yuvj420p"}),
    ("avi", "rawvideo", {}),
    ("mpegts", "libx264", {}),
    ("mpegts", "mpeg2video", {}),
    ("mpegts", "libx264", {"container_options": {"mpegts_m2ts_mode": "1"}}),
    ("mpeg", "mpeg1video", {}),
    ("vob", "mpeg2video", {}),
    ("flv", "flv", {}),
    ("flv", "libx264", {}),
    ("asf", "wmv2", {}),
    ("asf", "libx264", {}),
    ("mxf", "mpeg2video", {}),
    ("mxf", "libx264", {}),
    ("dv", "dvvideo", {"size": (576, 720)}),
    ("gif", "gif", {"pixel_format": "rgb8"}),
    ("apng", "apng", {"pixel_format": "rgb24"}),
    ("nut", "ffv1", {}),
    ("ivf", "libvpx-vp9", {}),
    ("rm", "rv20", {}),
    ("wtv", "mpeg2video", {}),
    ("swf", "flv", {}),
    ("yuv4mpegpipe", "wrapped_avframe", {}),
    ("h264", "libx264", {}),
    ("mpeg1video", "mpeg1video", {}),
    ("mpeg2video", "mpeg2video", {}),
    ("m4v", "mpeg4", {}),
    ("mjpeg", "mjpeg", {"pixel_format": "yuvj420p"}),
]


def written(path, muxer, codec, options):
    options = dict(options)
    options.setdefault("b_frames", 2 if codec in ("libx264", "mpeg4", "mpeg1video", "mpeg2video") else 0)
    frames = numbered_frames(COUNT, *options.pop("size", (48, 64)))
    return write_video(path, frames, RATE, codec=codec, container=muxer, keyframe_interval=6, **options)


@pytest.mark.parametrize(("muxer", "codec", "options"), CONTAINERS)
def test_every_container_is_read_whatever_its_name(tmp_path, muxer, codec, options):
    try:
        path = written(tmp_path / "video", muxer, codec, options)
    except (ValueError, av.error.FFmpegError) as error:
        pytest.skip(f"this PyAV does not write {codec} in {muxer}: {error}")
    for source in (path, path.read_bytes()):
        with VideoReader(source, backend="pyav") as reader:
            assert reader.duration == pytest.approx(COUNT / RATE, abs=2e-3)
            assert frame_numbers(reader.frames_at([(k + 0.5) / RATE for k in range(COUNT)])) == list(range(COUNT))
            assert frame_numbers(reader.frames_at([7.5 / RATE, 2.5 / RATE])) == [7, 2]


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """Videos of the machine that a file from outside names."""
    folder = tmp_path_factory.mktemp("private")
    fragmented = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    written(folder / "x.ts", "mpegts", "libx264", {})
    written(folder / "x.mkv", "matroska", "libx264", {})
    written(folder / "x.mp4", "mp4", "libx264", {"container_options": fragmented})
    written(folder / "0.png", "image2", "png", {"pixel_format": "rgb24", "container_options": {"update": "1"}})
    return folder


def hls(address):
    mapped = f'#EXT-X-MAP:URI="{address}"\n' if address.endswith("mp4") else ""
    media = f"{mapped}#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n"
    return f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:10\n{media}".encode()


def dash(address):
    return (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT1S"><Period><AdaptationSet '
        f'mimeType="video/mp4"><Representation id="0" bandwidth="1"><BaseURL>{address}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>\n"
    ).encode()


def sdp(address):
    return b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"


KINDS_OF_LISTS = {
    "playlist \\(HLS\\)": hls,
    "playlist \\(DASH\\)": dash,
    "session description": sdp,
    "list of files": lambda address: f"ffconcat version 1.0\nfile '{address}'\n".encode(),
}


@pytest.mark.parametrize("kind", KINDS_OF_LISTS)
@pytest.mark.parametrize("name", ["list.m3u8", "list.m3u", "list.mp4", "list.ts", "list.avi", "list.mkv", "list"])
def test_what_names_other_files_is_refused(tmp_path, private, kind, name):
    path = tmp_path / name
    for video in ("x.ts", "x.mkv", "x.mp4"):
        for address in (f"{private}/{video}", f"file://{private}/{video}", f"../{private.name}/{video}"):
            path.write_bytes(KINDS_OF_LISTS[kind](address))
            for source in (path, path.read_bytes()):
                with pytest.raises(VideoReadError, match=f"{kind}.*not opened"):
                    VideoReader(source)


def test_the_name_of_a_file_opens_no_other(tmp_path, private):
    (tmp_path / "0.png").write_bytes((private / "0.png").read_bytes())
    for name in ("%d.png", "concat:0.png", "subfile,,start,0,end,0,,:0.png"):
        (tmp_path / name).write_bytes(b"a text of no kind\n" * 100)
        with pytest.raises(VideoReadError, match="not a video"):
            VideoReader(tmp_path / name)
    for name in ("%d.mp4", "concat:0.png", "file:x.mp4", "100% a|b.mp4"):  # what a file is called is no reason either
        (tmp_path / name).write_bytes((private / "x.mp4").read_bytes())
        with VideoReader(tmp_path / name) as reader:
            assert frame_numbers(reader.frames_at([0.0])) == [0]


def alias(path):
    """An entry of a MOV data reference that names another file (QuickTime's alias record, as FFmpeg reads it)."""
    name = str(path).encode()
    record = bytes(10) + b"\0" * 28 + bytes(12) + b"\1x" + bytes(62) + bytes(16) + struct.pack(">hh", 0, 0) + bytes(16)
    record += struct.pack(">hH", 2, len(name)) + name + b"\0" * (len(name) % 2) + struct.pack(">hH", -1, 0)
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


def with_data_elsewhere(content, path):
    """An MP4 whose only track lies in another file; `moov` is last, so that nothing in it has to move."""
    entry = content.index(b"url \0\0\0\1") - 4
    inserted = alias(path)
    changed = bytearray(content[:entry] + inserted + content[entry + 12 :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = content.rindex(box, 0, entry) - 4
        size = struct.unpack_from(">I", content, at)[0]
        struct.pack_into(">I", changed, at, size + len(inserted) - 12)
    return bytes(changed)


def test_mov_tracks_in_other_files_stay_closed(tmp_path, private):
    whole = written(tmp_path / "whole.mp4", "mp4", "libx264", {}).read_bytes()
    (private / "data.mp4").write_bytes(whole)
    start = whole.index(b"mdat") + 4
    end = whole.index(b"moov") - 4
    path = tmp_path / "elsewhere.mov"
    path.write_bytes(with_data_elsewhere(whole[:start] + bytes(end - start) + whole[end:], private / "data.mp4"))
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(path), options=options) as container:  # what the file asks for
        assert len(list(container.decode(video=0))) == COUNT
    with pytest.raises(VideoReadError, match="holds no frames"):
        VideoReader(path)


def test_a_stream_that_begins_as_a_text_is_not_handed_to_torchcodec(tmp_path, private):
    """Its own FFmpeg might take for a playlist what this one takes for a stream."""
    path = tmp_path / "both.ts"
    path.write_bytes(b"# a text\n" + (private / "x.ts").read_bytes())
    with VideoReader(path) as reader:
        assert reader.backend == "pyav"
        assert frame_numbers(reader.frames_at([0.0])) == [0]


def test_pictures_and_noise_are_refused(tmp_path, private):
    with pytest.raises(VideoReadError, match="0.png: not a video in one of the containers"):
        open_container(private / "0.png", "0.png")
    jpeg = io.BytesIO()
    av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24").to_image().save(jpeg, "jpeg")
    noise = np.random.default_rng(0).bytes(5000)
    for content in (noise, noise[:3], b"\0" * 5000, jpeg.getvalue(), b"<svg></svg>", b"GIF89a"):
        with pytest.raises(VideoReadError):
            VideoReader(content)
