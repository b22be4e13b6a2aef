"""Stored bytes to crops: the hot path. A decoder belongs to one thread and reuses its buffers."""

import base64
import hashlib
import math
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from preprocess.store import Encoding, ImageSpec

UInt8 = npt.NDArray[np.uint8]

# OpenCV converts so many columns of YUV at once, with the vectors of today's processors, and those that are left over
# one by one: 256 of them take less time than 226.
_YUV_COLUMNS = 64


class Decoder:
    """Decodes records of one store into buffers that the next call overwrites. Not thread-safe."""

    def __init__(self, spec: ImageSpec) -> None:
        self._spec = spec
        self._shape = (spec.side, spec.side, 3)
        self._stored_size_bytes = spec.stored_size_bytes
        self._buffer = np.empty(self._shape, np.uint8)
        self._planes = np.empty(spec.raw_size_bytes // 2, np.uint8)

    def decode(self, image: memoryview) -> UInt8:
        """The pixels, uint8 [side, side, 3] RGB; valid until the next call. Raises ValueError for a damaged image."""
        return self.decode_window(image, 0, 0, self._spec.side, self._spec.side)

    def decode_window(self, image: memoryview, top: int, left: int, height: int, width: int) -> UInt8:
        """The pixels of the window at (top, left), uint8 [height, width, 3] RGB: that part of the whole image's,
        byte for byte, for the work of the window where the encoding allows. Valid until the next call.

        Raises ValueError for a damaged image.
        """
        if self._stored_size_bytes not in (None, len(image)):
            raise ValueError(f"expected {self._stored_size_bytes} bytes, found {len(image)}")
        if self._spec.encoding == "yuv420":
            return self._converted(image, top, left, height, width)
        if self._spec.encoding == "raw":
            pixels = np.frombuffer(image, np.uint8).reshape(self._shape)
        else:
            pixels = self._decoded_jpeg(image)
        return pixels[top : top + height, left : left + width]

    def _converted(self, image: memoryview, top: int, left: int, height: int, width: int) -> UInt8:
        """A window of an image of planes. What is converted is a region around it that begins and ends at even numbers:
        colours are stored for 2 x 2 pixels and OpenCV gives them to just those, so it is what it is in the whole image.
        """
        side, half = self._spec.side, self._spec.side // 2
        stored = np.frombuffer(image, np.uint8)
        luma, colours = stored[: side * side].reshape(side, side), stored[side * side :].reshape(2, half, half)
        first_row, end_row = top // 2 * 2, (top + height + 1) // 2 * 2
        columns = min(math.ceil((width + left % 2) / _YUV_COLUMNS) * _YUV_COLUMNS, side)
        first_column = min(left // 2 * 2, side - columns)
        rows, end_column = end_row - first_row, first_column + columns
        # OpenCV takes the three planes in one piece.
        planes, num_pixels = self._planes[: rows * columns * 3 // 2], rows * columns
        np.copyto(planes[:num_pixels].reshape(rows, columns), luma[first_row:end_row, first_column:end_column])
        np.copyto(
            planes[num_pixels:].reshape(2, rows // 2, columns // 2),
            colours[:, first_row // 2 : end_row // 2, first_column // 2 : end_column // 2],
        )
        buffer = self._buffer.reshape(-1)[: num_pixels * 3].reshape(rows, columns, 3)
        pixels = cv2.cvtColor(planes.reshape(rows * 3 // 2, columns), cv2.COLOR_YUV2RGB_I420, dst=buffer)
        top, left = top - first_row, left - first_column
        return np.asarray(pixels[top : top + height, left : left + width], np.uint8)

    def _decoded_jpeg(self, image: memoryview) -> UInt8:
        pixels: UInt8 = simplejpeg.decode_jpeg(
            image, colorspace="RGB", fastdct=False, fastupsample=False, buffer=self._buffer
        )
        if pixels.shape != self._shape:
            raise ValueError(f"expected an image of shape {self._shape}, found {pixels.shape}")
        return pixels


def copy_crop(out: UInt8, window: UInt8, is_mirrored: bool) -> None:
    """Copies ``window`` into ``out`` (both uint8 [crop, crop, 3]), mirrored if asked."""
    np.copyto(out, window)
    mirror(out, is_mirrored)


def mirror(out: UInt8, is_mirrored: bool) -> None:
    """Mirrors ``out`` (uint8 [crop, crop, 3]) left to right, in place, if asked."""
    if is_mirrored:
        # In place: mirroring into memory that no cache holds takes twice the time of both (docs/performance.md).
        cv2.flip(out, 1, dst=out)


# A 32x32 4:2:0 JPEG, quality 75, of colour ramps and a chequerboard: what the decoder makes of it is part of the
# pipeline's version, since another libjpeg may round differently.
_PROBE = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00;&K2L=TQ2L}fU2?z=d6b%du3k(?&6Au&}8Xq1V8XO!TBrYc)A}k{u94I#_EHE)NG&CP4"
    "IXyTsJT5adGXL8ELjeg12@DGi7!3^=G9erxGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBPqUGBW?b"
    "01*fPAOIi(0U`hb5di}c0sq7R9{>OW1pxs80RaI300000000010s{mE1_uZU3Jd?l0JRVR0s#X90t5pE1q1{D00Dgg0s{a95d{(<"
    "F+m0sQDFxnaTGFvk)a49Lb1UWQqk}vGh%Xr2?`b$7#SKRCMPH<Dl|1VH#j*uLqtVJM@UIZQ&d$}S6EqEV`OD!XJ~0^b98lfcX)Yv"
    "gM@{Khlq)al9QB`mY0~BnxdnmrKYE-sj9NGw6(UkxVgH*!^FkL$H>Xb($mz{*4NnC+Tr5k<mKk)=;`Y5^7Hid_V@Vt`v1fL9{~UZ"
    "0RaI40RaI40RR91000010s{mE1_uZU3Jd?l0JRYS0s#U91Oo&I1q1{D0Rndb0RjUN1O*{61`<J02Vrp&A~Jyp6he`qvB3!=Gg9ys"
    "Vsg<679=#`CGi&+85$-hC@Cs6Ha9pqIzvQ7Mn_0VN>fx-"
    "R##YAT4Q8oW@l(=YIAgTc6WGrdV+(5g@%WSiHeewl$Dm3n3<ZQqok##r>Lo_va__cwzs&sy28W6#m2|T$;#5x)YaD4*xB0R<K*S$"
    "=jiF`^7Hid_V@Vt`v2Mh3<CiG0ucid06zfoTYWgBX4rwf`3JZ8;<X^L-"
    "?Ib#N8b1PepRDyWacvLr_UTO9OLQv)}$6V*|dG{^}qdpPW9~7#YdM*^4V$Emj3Gh01}q6{^_1yj@wf<-"
    "q0hPlBZ+v2Y>U$X<O;VBR0eh@5nvB&lRa}V1`1B2aq{mO#Od4(zmj68Fo|Wju(z`^!)42uZ!QC``7;f+?M|U7ufv|xy!M;YyEWp0"
    "D@*gX}|p^ZZ>?oeSaUuwBWJX+dhB(JD=y)wBWKsAazmX4jYa$^!%$z-"
    "p3oa554}Y{{XG&+PvD>w|lu=_vwDJ^pf`%OYN!nwqK3d&4W$f{*BXT&AT0c55~0MwBP=dw;MiPzQ2#-"
    "T2NRyj3R^Qj$79sU&^&0vO^$sQREIAjx+T9tIMm4w%Tp-x5Iz>_4fY&@?-9D{BGL+0AKJ=|Je"
)


# A side that is no whole number of vectors: what they leave over is converted by other code.
_YUV_PROBE_SIDE = 254


@cache
def decoder_digest(encoding: Encoding) -> str:
    """Eight hex digits that name what this machine makes of images so encoded. Raw ones have JPEG's."""
    if encoding == "yuv420":
        spec = ImageSpec(encoding="yuv420", side=_YUV_PROBE_SIDE)
        planes = hashlib.shake_128(b"any bytes will do").digest(spec.raw_size_bytes // 2)
        return hashlib.sha256(Decoder(spec).decode(memoryview(planes)).tobytes()).hexdigest()[:8]
    pixels = simplejpeg.decode_jpeg(_PROBE, colorspace="RGB", fastdct=False, fastupsample=False)
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:8]
