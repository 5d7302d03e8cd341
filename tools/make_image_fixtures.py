#!/usr/bin/env python3
"""Makes tests/fixtures/images.bin: picture files with the pixels that PIL reads from them, and resizings
with the bytes that PIL gives, for tests/golden/test_image.c.  Needs Pillow 13 (older
ones resize in another order of the two directions).

A record: what (32 bytes), then six little-endian int32 (a, b, c, d, e, n), then n bytes and the pixels.
  "file NAME":  a x b x c are the pixels; n bytes of the file come before them
  "bad NAME":   n bytes of a file that must be refused; no pixels
  "resize F":   n = a*b*c bytes in, then d*e*c bytes out with the filter F
usage: make_image_fixtures.py
"""
import io
import pathlib
import random
import struct

from PIL import Image

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/images.bin"
FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
SIZES = [(7, 5), (23, 40), (64, 48), (1, 1), (29, 11), (23, 11), (40, 17), (20, 6)]


def picture(mode, w=23, h=17, seed=1):
    """Edges, a gradient and noise: what shows a wrong filter or a wrong order of channels."""
    r = random.Random(seed)
    im = Image.new("RGBA", (w, h))
    for y in range(h):
        for x in range(w):
            v = (x * 255 // max(1, w - 1), y * 255 // max(1, h - 1),
                 255 if (x // 4 + y // 4) % 2 else 20, r.choice([0, 60, 128, 255, 255]))
            im.putpixel((x, y), v)
    return im if mode == "RGBA" else im.convert("RGB").convert(mode)


def saved(im, kind, **options):
    out = io.BytesIO()
    im.save(out, kind, **options)
    return out.getvalue()


def exif(n):
    e = Image.Exif()
    e[0x0112] = n
    return e.tobytes()


def chunk(kind, data):
    import zlib
    return struct.pack(">I", len(data)) + kind + data + struct.pack(
        ">I", zlib.crc32(kind + data))


def png_by_hand(w, h, depth, color, rows, more=b"", interlace=0):
    import zlib
    head = struct.pack(">IIBBBBB", w, h, depth, color, 0, 0, interlace)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def interlaced(im):
    """Adam7 by hand, since PIL does not write it."""
    w, h = im.size
    data = b""
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                           (1, 0, 2, 2), (0, 1, 1, 2)):
        for y in range(y0, h, dy):
            row = b"".join(bytes(im.getpixel((x, y))) for x in range(x0, w, dx))
            data += b"\0" + row if row else b""
    return png_by_hand(w, h, 8, 2, data, interlace=1)


def files():
    rgb, rgba, gray = picture("RGB"), picture("RGBA"), picture("L")
    yield "png_rgb", saved(rgb, "PNG")
    yield "png_rgba", saved(rgba, "PNG")
    yield "png_gray", saved(gray, "PNG")
    yield "png_gray_alpha", saved(rgba.convert("LA"), "PNG")
    yield "png_1bit", saved(gray.convert("1"), "PNG")
    yield "png_palette", saved(rgb.quantize(16), "PNG")
    yield "png_palette_trns", saved(rgb.quantize(16), "PNG", transparency=3)
    yield "png_interlaced", interlaced(rgb)
    rows = b"".join(b"\0" + b"".join(struct.pack(">HHH", *(v * 257 - (v > 0) for v in
                                                           rgb.getpixel((x, y))))
                                     for x in range(23)) for y in range(17))
    yield "png_16bit", png_by_hand(23, 17, 16, 2, rows)
    yield "png_1x1", saved(picture("RGB", 1, 1), "PNG")
    yield "png_wide", saved(picture("RGB", 2000, 1), "PNG")
    yield "jpeg_rgb", saved(rgb, "JPEG", quality=90)
    yield "jpeg_444", saved(rgb, "JPEG", quality=95, subsampling=0)
    yield "jpeg_progressive", saved(rgb, "JPEG", progressive=True)
    yield "jpeg_gray", saved(gray, "JPEG")
    yield "jpeg_cmyk", saved(rgb.convert("CMYK"), "JPEG")
    for n in range(2, 9):
        yield f"jpeg_exif_{n}", saved(picture("RGB", 13, 8), "JPEG", exif=exif(n))
    yield "webp_lossy", saved(rgb, "WEBP", quality=80)
    yield "webp_lossless", saved(rgb, "WEBP", lossless=True)
    yield "webp_alpha", saved(rgba, "WEBP", lossless=True, exact=True)


def bad():
    frames = [picture("RGB"), picture("RGB").rotate(180)]
    yield "webp_animated", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    yield "gif", saved(picture("L"), "GIF")
    yield "bmp", saved(picture("RGB"), "BMP")
    yield "png_bomb", png_by_hand(30000, 30000, 8, 2, b"\0" * 5000)
    yield "png_huge", png_by_hand(2**31 - 1, 2**31 - 1, 8, 2, b"")
    yield "png_zero", png_by_hand(0, 5, 8, 2, b"")
    yield "png_short_idat", png_by_hand(23, 17, 8, 2, b"\0" * 100)
    yield "jpeg_soi", b"\xff\xd8\xff"
    yield "webp_head", b"RIFF\x10\0\0\0WEBPVP8 \x04\0\0\0abcd"
    yield "text", b"<svg xmlns='http://www.w3.org/2000/svg'/>"


def pixels_of(data):
    from PIL import ImageOps
    im = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    alpha = "A" in im.mode or "transparency" in im.info
    return im.convert("RGBA" if alpha else "RGB")


def record(what, numbers, data, pixels=b""):
    return struct.pack("<32s6i", what.encode(), *numbers, len(data)) + data + pixels


def main():
    out = b""
    for name, data in files():
        im = pixels_of(data)
        out += record(f"file {name}", (*im.size, len(im.getbands()), 0, 0), data, im.tobytes())
    for name, data in bad():
        out += record(f"bad {name}", (0, 0, 0, 0, 0), data)
    for mode in ("RGB", "RGBA", "L"):
        im = picture(mode, seed=7)
        for name, how in FILTERS.items():
            for size in SIZES:
                n = len(im.getbands())
                out += record(f"resize {name}", (*im.size, n, *size), im.tobytes(),
                              im.resize(size, how).tobytes())
    OUT.write_bytes(out)
    print(f"{OUT.name}: {len(out)} bytes")


if __name__ == "__main__":
    main()
