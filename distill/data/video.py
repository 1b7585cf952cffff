"""One picture of every shot of a video: the sharpest frame, without black bars and subtitles.

    pass 1 (all frames, 480 px wide) ─ cuts, sharpness, bars, subtitles ─▶ one frame per shot ─ pass 2 (full size) ─▶ pictures

Cuts are PySceneDetect's (adaptive: a frame that differs from the one before far more than its neighbours do), so a pan is one shot
and limited animation, which holds a drawing for three frames, is not cut at every drawing. Bars are rows and columns that are dark
through the whole film. Frames without subtitles are preferred; where all frames of a shot have them, the picture is cut above them.

Not here: HDR (taken as it is), interlacing, cross-fades (their middle may be chosen in a shot of half a second).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genin.dataset.files import PictureError
from genin.runtimes.errors import MissingExtraError
from genin.runtimes.wording import counted

LOOK_WIDTH = 480
SHORTEST_SHOT_S = 0.5
EDGE_FRAMES = 3  # next to a cut, where codecs and fades blur
FLAT = 6.0  # standard deviation of grey below which a frame is empty
DARK, DARK_SHARE = 28, 0.98  # the brightest twentieth of a row, in how many of the frames
LEAST_LEFT = 0.6  # of a picture's height that stays when subtitles are cut off
SECONDS_A_GROUP = 60.0
GUESSING = {"mpegts", "mpeg", "mpegvideo"}  # containers that seek by bytes

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """A shot's picture. `group` numbers stretches of about a minute: shots of one stretch belong into one split."""

    shot: int
    time_s: float
    group: int
    image: Image.Image


@dataclass(frozen=True)
class Look:
    """What pass 1 keeps of a frame: which one it is, when it is shown, its sharpness, its spread of grey, where subtitles begin."""

    number: int
    pts: int | None
    time_s: float
    sharpness: float
    spread: float
    subtitles_at: float | None  # share of the height


def frames_of(path: Path, ended: Callable[[], bool] = lambda: False) -> Iterator[Frame]:
    """The pictures of a video, one per shot, in order. Errors: PictureError for a file that is not a video, or, after the pictures,
    where none shows anything or the video breaks off; MissingExtraError; CancelledError once `ended()`, which is asked at every
    frame."""
    shots, (left, top, right, bottom), breaks_off_s = _look_through(path, ended)
    chosen = [_best(shot) for shot in shots]
    wanted = [(number, look) for number, look in enumerate(chosen) if look is not None]
    group, began = -1, -SECONDS_A_GROUP
    lost = 0
    pictures = _pictures_at(path, [look for _, look in wanted], ended)
    for (number, look), image in zip(wanted, pictures, strict=True):
        if image is None:
            lost += 1
            continue
        if look.time_s - began >= SECONDS_A_GROUP:
            group, began = group + 1, look.time_s
        width, height = image.size
        ends = bottom if look.subtitles_at is None else min(bottom, max(look.subtitles_at, top + LEAST_LEFT))
        box = (round(left * width), round(top * height), round(right * width), round(ends * height))
        yield Frame(number, look.time_s, group, image.crop(box))
    wrong = []
    if not wanted:
        wrong.append("no frame shows anything: dark, or of one colour, all the way")
    if lost:
        wrong.append(f"{lost} of {counted(len(wanted), 'shot')} cannot be decoded a second time")
    if breaks_off_s is not None:
        wrong.append(f"the video breaks off at {breaks_off_s:.1f} s; what came before is kept")
    if wrong:
        raise PictureError("; ".join(wrong), where=path)


def _best(shot: Sequence[Look]) -> Look | None:
    """The sharpest frame that shows something, preferably without subtitles; None for a black shot."""
    edge = min(EDGE_FRAMES, len(shot) // 4)
    inner = [look for look in shot[edge : len(shot) - edge] if look.spread > FLAT]
    return max(inner, key=lambda look: (look.subtitles_at is None, look.sharpness), default=None)


# --- pass 1 ----------------------------------------------------------------------------------------------------------


def _look_through(
    path: Path, ended: Callable[[], bool]
) -> tuple[list[list[Look]], tuple[float, float, float, float], float | None]:
    """The frames of every shot, the picture's box inside its bars as shares of width and height, and where decoding ended early."""
    _, cv2 = _packages()
    from scenedetect import FrameTimecode
    from scenedetect.detectors import AdaptiveDetector

    looks: list[Look] = []
    cuts: set[int] = set()
    rows, columns = [], []
    broken = False
    with _opened(path) as container:
        stream = _video_stream(container, path)
        rate = float(stream.average_rate or 25)
        promised_s = _promised_s(container, stream)
        detector = AdaptiveDetector(min_scene_len=max(1, round(SHORTEST_SHOT_S * rate)))
        for frame in _decoded(container, stream, ended):
            if frame is None:
                broken = True
                break
            small = _small(frame)
            grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
            now = FrameTimecode(len(looks), rate)
            cuts.update(cut.frame_num for cut in detector.process_frame(now, small))
            rows.append(_bright(grey, 1))
            columns.append(_bright(grey, 0))
            band = subtitles_at(grey)
            sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
            shown_s = float(frame.time) if frame.time is not None else len(looks) / rate
            looks.append(Look(len(looks), frame.pts, shown_s, sharpness, float(grey.std()), band))
        if looks:
            cuts.update(cut.frame_num for cut in detector.post_process(FrameTimecode(len(looks) - 1, rate)))
    if not looks:
        raise PictureError("no frame of the video can be decoded", where=path, remedy="replace or remove it")
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(looks)), len(looks)]
    shots = [looks[start:end] for start, end in pairwise(edges)]
    (top, bottom), (left, right) = _inside_bars(np.array(rows)), _inside_bars(np.array(columns))
    # To the decoder, a truncated file often just ends.
    ends_s = looks[-1].time_s
    broken = broken or ends_s + max(1.0, 0.02 * promised_s) < promised_s
    return shots, (left, top, right, bottom), ends_s if broken else None


def _promised_s(container: Any, stream: Any) -> float:
    """The video's length by its header; 0 where that does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return float(container.duration or 0) / 1e6


def _small(frame: Any) -> NDArray[np.uint8]:
    """Upright, as bars and subtitles are looked for in what is shown."""
    width = min(LOOK_WIDTH, frame.width)
    height = max(2, round(width * frame.height / frame.width))
    pixels: NDArray[np.uint8] = frame.reformat(width=width, height=height, format="bgr24").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(_turned(frame) / 90)))


def _turned(frame: Any) -> int:
    """Degrees, counterclockwise, by which a frame has to be turned."""
    return int(getattr(frame, "rotation", 0) or 0)


def _bright(grey: Grey, axis: int) -> Grey:
    """How bright the brightest twentieth of each row (axis 1) or column (0) is; logos and dust do not count."""
    length = grey.shape[axis]
    place = length - 1 - length // 20
    bright: Grey = np.partition(grey, place, axis=axis).take(place, axis=axis)
    return bright


def _inside_bars(bright: Grey) -> tuple[float, float]:
    """(frames, rows) => where the picture begins and ends, as shares. The second bar may hold subtitles: where there is a first
    one, it is as wide if its rows are dark in half of the frames."""
    lit = bright[bright.max(1) > DARK]  # frames that are dark everywhere tell nothing
    length = bright.shape[1]
    if not len(lit):
        return 0.0, 1.0
    dark = (lit <= DARK).mean(0)
    light = np.flatnonzero(dark < DARK_SHARE)
    if not len(light):
        return 0.0, 1.0
    first, last = int(light[0]), int(light[-1]) + 1
    if first and last > length - first and (dark[length - first :] >= 0.5).all():
        last = length - first
    # A pixel more at each bar: chroma and scaling smear its edge.
    first, last = first + (first > 0), last - (last < length)
    return first / length, last / length


def subtitles_at(grey: Grey) -> float | None:
    """The share of the height above which a line of subtitles begins, None without one.

    A line of text is a band of rows in the lower third where bright meets dark again and again, close together over a stretch about
    the middle of the width, with quieter rows above it.
    """
    height, width = grey.shape
    start = 2 * height // 3
    part = grey[start:].astype(np.int16)
    bright, dark = np.maximum(part[:, 1:], part[:, :-1]), np.minimum(part[:, 1:], part[:, :-1])
    edges = (bright - dark > 80) & (bright > 160)
    for first, last in _runs(edges.sum(1) >= 6, gap=max(1, height // 90)):
        if not height / 60 <= last - first <= height / 7:
            continue
        columns = np.flatnonzero(edges[first:last].any(0))
        left, middle, right = np.percentile(columns, (5, 50, 95))
        close = len(columns[(columns >= left) & (columns <= right)]) / (right - left + 1)
        above = edges[max(0, first - (last - first)) : first].sum(1)
        quiet = not len(above) or np.median(above) <= edges[first:last].sum(1).mean() / 4
        if right - left >= width / 20 and 0.4 <= middle / width <= 0.6 and close >= 0.4 and quiet:
            return float((start + first - max(2, (last - first) // 2)) / height)  # outlines reach further
    return None


def _runs(marked: NDArray[np.bool_], gap: int) -> list[tuple[int, int]]:
    """Runs of True, those at most `gap` apart joined."""
    runs: list[tuple[int, int]] = []
    for index in np.flatnonzero(marked):
        if runs and index - runs[-1][1] <= gap:
            runs[-1] = (runs[-1][0], int(index) + 1)
        else:
            runs.append((int(index), int(index) + 1))
    return runs


# --- pass 2 ----------------------------------------------------------------------------------------------------------


def _pictures_at(path: Path, looks: Sequence[Look], ended: Callable[[], bool]) -> Iterator[Image.Image | None]:
    """The frames of these looks at full size, upright and with square pixels; None for one that cannot be decoded again.

    Found by seeking to its time, if that gives exactly this frame; else by counting frames, as in containers that seek only
    approximately.
    """
    done = 0
    with _opened(path) as container:
        stream = _video_stream(container, path)
        if not set(container.format.name.split(",")) & GUESSING:
            for look in looks:
                frame = _sought(container, stream, look, ended)
                if frame is None:
                    break
                done += 1
                yield _full(frame, stream)
    if done < len(looks):
        yield from _counted(path, looks[done:], ended)


def _sought(container: Any, stream: Any, look: Look, ended: Callable[[], bool]) -> Any:
    av, _ = _packages()
    if look.pts is None:
        return None
    second = round(1 / stream.time_base)
    for earlier in (0, 2 * second, 20 * second):
        try:
            container.seek(look.pts - earlier, stream=stream)
        except (av.error.FFmpegError, ValueError, OverflowError):
            return None
        for frame in _decoded(container, stream, ended):
            if frame is None or frame.pts is None or frame.pts > look.pts:
                break
            if frame.pts == look.pts:
                return frame
    return None


def _counted(path: Path, looks: Sequence[Look], ended: Callable[[], bool]) -> Iterator[Image.Image | None]:
    left = list(looks)
    with _opened(path) as container:
        stream = _video_stream(container, path)
        for number, frame in enumerate(_decoded(container, stream, ended)):
            if frame is None or not left:
                break
            if number == left[0].number:
                left.pop(0)
                yield _full(frame, stream)
    yield from (None for _ in left)


def _full(frame: Any, stream: Any) -> Image.Image:
    from av.video.reformatter import Colorspace

    # An unmarked HD file is BT.709, a smaller one BT.601: the decoder itself assumes 601 for everything.
    known = int(frame.colorspace) in (int(Colorspace.ITU709), int(Colorspace.ITU601), int(Colorspace.SMPTE240M))
    guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    pixels = frame.reformat(format="rgb24", src_colorspace=None if known else guess).to_ndarray()
    image = Image.fromarray(pixels)
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if ratio > 0 and ratio != 1:
        image = image.resize((max(1, round(image.width * ratio)), image.height), Image.Resampling.LANCZOS)
    turned = _turned(frame)
    return image.rotate(turned, expand=True) if turned else image


# --- the file --------------------------------------------------------------------------------------------------------


def _packages() -> tuple[Any, Any]:
    try:
        import av
        import cv2
        import scenedetect  # noqa: F401  # asked for here so that what is missing is said before any work
    except ImportError as error:
        raise MissingExtraError(str(error.name), "data") from error
    av.logging.set_level(av.logging.PANIC)
    return av, cv2


def _opened(path: Path) -> Any:
    av, _ = _packages()
    try:
        return av.open(io.FileIO(path), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        reason = str(getattr(error, "strerror", "") or error)
        raise PictureError(f"not a readable video ({reason})", where=path, remedy="replace it") from error


def _video_stream(container: Any, path: Path) -> Any:
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails  # the cover of an album or a film
    films = [stream for stream in container.streams.video if not stream.disposition & still]
    if not films:
        what = "the file has no video, only a cover picture" if container.streams.video else "the file has no video"
        raise PictureError(what, where=path, remedy="replace or remove it")
    stream = next((film for film in films if film.disposition & Disposition.default), films[0])
    # Not threads of whole frames: after a packet that cannot be decoded, closing such a decoder may wait for ever. Files are read
    # side by side anyway.
    stream.thread_type = "SLICE"
    return stream


def _decoded(container: Any, stream: Any, ended: Callable[[], bool]) -> Iterator[Any]:
    """Frames up to the first place that cannot be decoded, and None there. Errors: CancelledError once `ended()`."""
    av, _ = _packages()
    try:
        for frame in container.decode(stream):
            if ended():
                raise CancelledError
            yield frame
    except (av.error.FFmpegError, ValueError):
        yield None
