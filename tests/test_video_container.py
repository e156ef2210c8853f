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
    with pytest.raises(VideoReadError, match="0.png: a picture, not a video"):
        open_container(private / "0.png", "0.png")
    jpeg = io.BytesIO()
    av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24").to_image().save(jpeg, "jpeg")
    noise = np.random.default_rng(0).bytes(5000)
    for content in (noise, noise[:3], b"\0" * 5000, jpeg.getvalue(), b"<svg></svg>", b"GIF89a"):
        with pytest.raises(VideoReadError):
            VideoReader(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"just a text", "not a video that FFmpeg can open"),
        (b"<!DOCTYPE html><html></html>", "a web page, not a video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(40), "an archive, not a video; unpack it"),
        (None, "this is a folder"),
    ],
)
def test_what_is_called_a_video_and_is_none_is_named(tmp_path, content, message):
    path = tmp_path / "x.mp4"
    path.mkdir() if content is None else path.write_bytes(content)
    for source in (path, str(path)):
        with pytest.raises(VideoReadError, match=rf"x\.mp4: .*{message}"):
            VideoReader(source)
    with pytest.raises(VideoReadError, match="cannot be read|no such file"):
        VideoReader(tmp_path / ("x" * 300 + ".mp4"))


def mp4_with_samples(content, count):
    """An MP4 whose index names `count` samples of one byte, in one chunk."""
    changed = bytearray(content)
    for box, place, numbers in ((b"stsz", 8, (1, count)), (b"stsc", 12, (1, count, 1)), (b"stts", 12, (count,))):
        at = content.index(box) + place
        changed[at : at + 4 * len(numbers)] = struct.pack(f">{len(numbers)}I", *numbers)
    return bytes(changed)


@pytest.mark.parametrize("options", [{}, {"container_options": {"movflags": "faststart"}}])
def test_an_index_of_more_frames_than_bytes_takes_no_memory(tmp_path, options):
    whole = written(tmp_path / "whole.mp4", "mp4", "libx264", options).read_bytes()
    for count in (80_000_000, 2**32 - 1):
        with pytest.raises(VideoReadError, match=f"its index names {count} frames in {len(whole)} bytes"):
            VideoReader(mp4_with_samples(whole, count))
    with VideoReader(whole) as reader:
        assert reader.frames_at([0.0]).shape[0] == 1


def test_frames_larger_than_any_cameras_are_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "x.mp4", numbered_frames(5, 100, 100))
    monkeypatch.setattr("re2tal_hf.video_reader.MAX_GROWN_PIXELS", 1)  # beyond what the header says
    with VideoReader(path) as reader:  # in blocks, 112x112
        assert reader.frames_at([0.0]).shape[-2:] == (100, 100)
    monkeypatch.setattr("re2tal_hf.video_container.MAX_PIXELS", 99 * 99)
    with pytest.raises(VideoReadError, match="x.mp4: its frames of 100x100 are larger than any camera's"):
        VideoReader(path)


def test_a_few_frames_that_last_for_days_are_damaged(tmp_path):
    times = [0.0, 1.0, 3600.0 * 20]
    with VideoReader(write_video(tmp_path / "a.mkv", numbered_frames(3), timestamps=times)) as reader:
        assert reader.duration > times[-1]
    path = write_video(tmp_path / "b.mkv", numbered_frames(3), timestamps=[*times[:2], 3600.0 * 48])
    with pytest.raises(VideoReadError, match=r"b\.mkv: by its timestamps 3 frames last 48 hours"):
        VideoReader(path)
