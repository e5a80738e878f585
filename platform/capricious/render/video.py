"""Animations as MP4 and WebM, through PyAV (FFmpeg). An optional part: pip install 'capricious[video]'."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np

from capricious.errors import CapriciousError

if TYPE_CHECKING:
    import av

CODECS = {"mp4": ("libx264", {"crf": "18", "preset": "medium"}), "webm": ("libvpx-vp9", {"crf": "24", "b": "0"})}


def video(frames: Sequence[np.ndarray], seconds_per_frame: float, format: str, comment: str) -> bytes:
    """Makes a film. The same frames give the same bytes.

    Args:
        frames: H×W×3 uint8, all of one size, at least 2×2; an odd row or column at the end is left out, because
            video halves the resolution of colours.
        seconds_per_frame: how long each is shown.
        format: of CODECS.
        comment: put into the file's metadata.

    Raises:
        CapriciousError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise CapriciousError(f"{format} needs PyAV: pip install 'capricious[video]', or choose gif") from error
    codec, options = CODECS[format]
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    out = io.BytesIO()
    with av.open(out, "w", format=format, options={"fflags": "+bitexact"}) as container:
        container.metadata["comment"] = comment
        rate = Fraction(1000, round(1000 * seconds_per_frame))
        stream = cast("av.VideoStream", container.add_stream(codec, rate=rate, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # several threads cut the picture differently
        for frame in frames:
            picture = np.ascontiguousarray(frame[:height, :width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return out.getvalue()
