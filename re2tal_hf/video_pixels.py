"""Decoded frames as RGB pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np

# For the filter, which needs one and does nothing with it.
TICK = Fraction(1, 90_000)


class RgbConversion:
    """Makes RGB pixels of decoded frames, all of one size.

    By a filter, which minds the place of the chroma samples, as torchcodec does; PyAV's `frame.reformat()` does not,
    and differs by up to 132 of 255 on 10-bit video.

    Args:
        width, height: of the pixels, as frames are stored.
    """

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._graph: Any = None
        self._graph_input: tuple[int, int, str] | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """Converts a frame to uint8 `[H, W, 3]`.

        Raises:
            av.error.FFmpegError: if it cannot be converted.
        """
        frame_input = (frame.width, frame.height, frame.format.name)
        try:
            if frame_input != self._graph_input:
                self._graph, self._graph_input = self._conversion(frame, *frame_input), frame_input
            self._graph.push(frame)
            return self._graph.pull().to_ndarray()
        except av.error.FFmpegError:
            self._graph_input = None
            raise

    def _conversion(self, frame: Any, width: int, height: int, pixel_format: str) -> Any:
        graph = av.filter.Graph()
        # Threads of its own would be waited for in vain where a forked process frees the graph.
        graph.threads = 1
        nodes = [
            # Not of the stream: a frame may be converted when that is closed.
            graph.add_buffer(
                width=width, height=height, format=av.VideoFormat(pixel_format), time_base=frame.time_base or TICK
            ),
            graph.add("scale", "{}:{}".format(*self._size)),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        for node, following in zip(nodes, nodes[1:], strict=False):
            node.link_to(following)
        graph.configure()
        return graph
