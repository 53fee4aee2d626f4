"""Decodes uploaded images safely, and converts between pixels and the networks' numbers."""

from __future__ import annotations

import ctypes
import io
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, _imaging

from server.pipeline.decoding import gif, jpeg, png, webp
from server.pipeline.decoding.colors import Convert, converter, to_rgb
from server.pipeline.decoding.file import ACCEPTED, FIRST_SIDEWAYS, ImageError, ImageFile, damaged
from server.pipeline.decoding.formats import is_picture, name_of

#: Images of more pixels are decoded one at a time, and reduced strip by strip; 4 megapixels take 16 MB.
LARGE = 4_000_000
_STRIP_PIXELS = 1 << 19
#: Bytes of pixels and coefficients above which a JPEG is reduced as it is decoded.
_MOST_BYTES = 250_000_000
#: EXIF's orientations other than 1, and the transposition that turns each upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LONGEST_REASON = 80

#: glibc's number of the parameter, for mallopt.
_M_MMAP_THRESHOLD = -3
# Pillow allocates images in blocks of 16 MB, which glibc keeps in a process that needs them often. What is above 32 MB goes
# back to the system in any process.
_imaging.set_block_size(1 << 28)

#: uint8 [H, W, 3], and [H, W].
Pixels = NDArray[np.uint8]
Gray = NDArray[np.uint8]
#: Reads a strip of decoded pixels of a file; see `to_rgb`.
_Read = Callable[[Image.Image, ImageFile, Convert | None], Image.Image]


def read_image(data: bytes) -> ImageFile:
    """Return the image in ``data`` before any pixel is decoded; raise ImageError saying what is accepted."""
    if data.startswith(png.SIGNATURE):
        return png.take_apart(data)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.take_apart(data)
    if webp.is_webp(data):
        return webp.take_apart(data)
    if data.startswith(gif.SIGNATURES):
        return gif.take_apart(data)
    how = ""
    if is_picture(data):
        how = "; on a Mac, Preview exports it as PNG, and so does `sips -s format png FILE --out FILE.png`"
    raise ImageError(f"this is {name_of(data)}", f"{ACCEPTED}{how}")


def decode_image(data: bytes) -> Image.Image:
    """Decode the image in ``data`` as RGB in sRGB, turned upright, transparency on white, without metadata.

    Takes 12 bytes a pixel. Raises ImageError saying what is accepted.
    """
    file = read_image(data)
    image = _decoded(file)
    upright = Image.new("RGB", image.size)
    for top, strip in _strips(image, file):
        upright.paste(strip, (0, top))
    turn = _TURNS.get(file.orientation)
    return upright if turn is None else upright.transpose(turn)


def fit_image(data: bytes, width: int, height: int) -> Pixels:
    """Decode the image, scale it to cover ``width`` x ``height`` and crop it at the center; uint8 [height, width, 3].

    Images of more than `LARGE` pixels take 4 bytes a pixel, WebP 8, progressive JPEG up to 8. Raises ImageError.
    """
    file = read_image(data)
    if file.pixels <= LARGE:
        return resize_and_crop(decode_image(data), width, height)
    return _fit_large(file, width, height)


def as_attachment(file: ImageFile, data: bytes, width: int, height: int) -> bytes:
    """Return what is stored of an uploaded image for a job of ``width`` x ``height``; raise ImageError if it is damaged.

    Small images are stored as they are, large ones as a PNG of what `fit_image` returns, which it returns for the PNG, too:
    so that a large image is decoded once.
    """
    if file.pixels <= LARGE:
        _decoded(file)
        return data
    return plain_png(_fit_large(file, width, height))


def return_freed_memory() -> None:
    """Have this process return every freed block of 1 MB and more to the system, as macOS does by itself.

    glibc keeps larger and larger blocks, up to 32 MB, in case they are needed again: 75 MB after forty uploads, against 9.
    A worker needs them again, for every step's tensors.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _decoded(file: ImageFile, least: tuple[int, int] | None = None) -> Image.Image:
    """Decode the pixels in their own mode.

    A JPEG that takes too much memory is reduced by 2, 4 or 8 if it is still of ``least`` width and height.
    """
    if file.format == "WEBP":
        return webp.decode(file)
    try:
        image = Image.open(io.BytesIO(b"".join(file.parts)), formats=(file.format,))
        if image.size != (file.width, file.height):
            raise ValueError("its headers contradict each other")
        if least is not None and 4 * file.pixels + file.coefficients > _MOST_BYTES:
            image.draft(None, least)
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        # Pillow raises what its parsers and its codecs come upon: besides OSError also SyntaxError, struct.error and others.
        reason = str(error)
        plain = reason.isprintable() and len(reason) <= _LONGEST_REASON and not set("<>'\"/\\") & set(reason)
        raise damaged(file.name, reason if plain and reason else "its data are broken") from error
    return image


def _strips(image: Image.Image, file: ImageFile, read: _Read = to_rgb) -> Iterator[tuple[int, Image.Image]]:
    """Yield each strip's first row, and what is read of the strip."""
    convert = converter(file.profile, image.mode)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        yield top, read(strip, file, convert)


def _fit_large(file: ImageFile, width: int, height: int) -> Pixels:
    """Do as `resize_and_crop` does, without a second copy of all pixels.

    Pillow takes the order that is faster; what is rounded in between makes a difference of 1 or 2 levels.
    """
    return _fit(file, width, height, *file.upright, to_rgb, Image.Resampling.LANCZOS)


def _fit(
    file: ImageFile,
    width: int,
    height: int,
    of_width: int,
    of_height: int,
    read: _Read,
    resampling: Image.Resampling,
) -> Pixels:
    """Scale an image, which stands for one of ``of_width`` x ``of_height``, to cover a size, and crop it at the center.

    First columns are scaled, strip by strip, then rows.
    """
    if file.orientation >= FIRST_SIDEWAYS:
        width, height, of_width, of_height = height, width, of_height, of_width
    image = _decoded(file, (3 * width // 2, 3 * height // 2))
    across, down = image.width / of_width, image.height / of_height
    left, top, right, bottom = _crop_box(of_width, of_height, width, height)
    narrow: Image.Image | None = None
    for row, strip in _strips(image, file, read):
        if narrow is None:
            narrow = Image.new(strip.mode, (width, image.height))
        box = (left * across, 0, right * across, strip.height)
        narrow.paste(strip.resize((width, strip.height), resampling, box), (0, row))
    assert narrow is not None  # an image has a row
    del image
    fitted = narrow.resize((width, height), resampling, (0, top * down, width, bottom * down))
    turn = _TURNS.get(file.orientation)
    return np.asarray(fitted if turn is None else fitted.transpose(turn))


def _luminance(strip: Image.Image, file: ImageFile, convert: Convert | None) -> Image.Image:
    """Return how white a strip is, transparent pixels not at all."""
    return to_rgb(strip, file, convert, "black").convert("L")


def _transparency(strip: Image.Image, file: ImageFile, convert: Convert | None) -> Image.Image:
    """Return how transparent a strip is: as much as the ground shows through."""
    on_white, on_black = (to_rgb(strip, file, convert, ground) for ground in ("white", "black"))
    return ImageChops.difference(on_white, on_black).getchannel(0)


def fit_mask(file: ImageFile, image: tuple[int, int], width: int, height: int, *, transparent: bool = False) -> Gray:
    """Return a mask at the size that its image is fitted to (see `fit_image`), uint8 [height, width].

    image: the width and height of the upright image that it belongs to. A mask of another size is first stretched to it.
    transparent: a pixel counts by its transparency (OpenAI's masks), instead of by its luminance; there, transparent pixels
        are black.

    Scaled without Lanczos's ripples, which would repaint a little beside every edge. Raises ImageError.
    """
    return _fit(file, width, height, *image, _transparency if transparent else _luminance, Image.Resampling.BILINEAR)


def _crop_box(width: int, height: int, to_width: int, to_height: int) -> tuple[float, float, float, float]:
    """Return the largest box in the middle of an image that has the other size's ratio, as Pillow's ImageOps.fit does."""
    ratio = to_width / to_height
    box_width, box_height = float(width), float(height)
    if width / height > ratio:
        box_width = ratio * height
    elif width / height < ratio:
        box_height = width / ratio
    left, top = (width - box_width) * 0.5, (height - box_height) * 0.5
    return left, top, left + box_width, top + box_height


def resize_and_crop(image: Image.Image, width: int, height: int) -> Pixels:
    """Return the image scaled to cover ``width`` x ``height`` and center-cropped, uint8 [height, width, 3]."""
    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS))


def resize_pixels(
    pixels: Pixels, width: int, height: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Pixels:
    """Return the image scaled to another size, uint8 [height, width, 3]."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), resampling))


def plain_png(values: NDArray[np.uint8]) -> bytes:
    """Return a PNG of gray values, uint8 [H, W], or of RGB, [H, W, 3], without metadata."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", compress_level=1)
    return file.getvalue()


def gray_of(data: bytes) -> Gray:
    """Return the values of a PNG of `plain_png`. Raises ImageError if it is damaged."""
    return np.asarray(_decoded(read_image(data)))


def _channels_first(values: NDArray[np.float32]) -> NDArray[np.float16]:
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None]).astype(np.float16)


def to_network(pixels: Pixels) -> NDArray[np.float16]:
    """Convert uint8 [H, W, 3] to what autoencoders take, fp16 [1, 3, H, W] in [-1, 1]."""
    return _channels_first(pixels.astype(np.float32) / np.float32(127.5) - np.float32(1))


def to_unit(pixels: Pixels) -> NDArray[np.float16]:
    """Convert uint8 [H, W, 3] to what ControlNets and upscalers take, fp16 [1, 3, H, W] in [0, 1]."""
    return _channels_first(pixels.astype(np.float32) / np.float32(255))


def to_pixels(image: NDArray[np.float32]) -> Pixels:
    """Convert fp32 [1, 3, H, W], clipped to [-1, 1], to uint8 [H, W, 3]."""
    return from_unit(image / np.float32(2) + np.float32(0.5))


def from_unit(image: NDArray[np.float32]) -> Pixels:
    """Convert fp32 [1, 3, H, W], clipped to [0, 1], to uint8 [H, W, 3]."""
    scaled = np.clip(image[0].transpose(1, 2, 0), 0, 1) * 255
    return np.ascontiguousarray(np.round(scaled).astype(np.uint8))
