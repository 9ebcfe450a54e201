"""Writes images of many kinds and what PIL and torchvision make of them.

usage: images.py FOLDER [IMAGE...]      the images given are measured besides those written
prints one line a case: image, preprocessing, file of float32 [3, H, W]
"""
import sys
import zlib, struct
import numpy as np
from PIL import Image
from torchvision import transforms as T

folder, given = sys.argv[1], sys.argv[2:]
rng = np.random.default_rng(7)


def picture(w, h):
    """Smooth colours with noise and hard edges, so that every part of codecs and filters has work."""
    y, x = np.mgrid[0:h, 0:w]
    base = np.stack([127 + 120 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)], -1)
    base[(x // 16 + y // 16) % 5 == 0] = rng.integers(0, 256, 3)
    return Image.fromarray(np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8))


def save(image, name, **options):
    path = f"{folder}/{name}"
    image.save(path, **options)
    return path


rgb = picture(303, 251)
files = [
    save(rgb, "baseline.jpg", quality=88),
    save(rgb, "no-subsampling.jpg", quality=95, subsampling=0),
    save(rgb, "half-subsampling.jpg", quality=60, subsampling=1),
    save(rgb, "progressive.jpg", quality=80, progressive=True),
    save(rgb.convert("L"), "grey.jpg", quality=80),
    save(rgb.convert("CMYK"), "cmyk.jpg", quality=90),
    save(rgb, "rgb.png"),
    save(rgb.convert("L"), "grey.png"),
    save(rgb.convert("1"), "bilevel.png"),
    save(rgb.quantize(40), "palette.png"),
    save(rgb.quantize(12), "palette-transparent.png", transparency=3),
    save(rgb.convert("L"), "grey-transparent.png", transparency=100),
    save(picture(1, 1), "one-pixel.png"),
    save(picture(3, 500), "narrow.png"),
    save(picture(641, 37), "wide.jpg", quality=75),
    save(picture(40, 53), "small.jpg", quality=75),
    save(picture(224, 224), "exact.jpg", quality=75),
    save(picture(60, 40), "adobe-rgb.bmp"),
]
for mode, name in (("RGBA", "alpha.png"), ("LA", "grey-alpha.png")):
    transparent = rgb.convert("RGBA")
    transparent.putalpha(Image.fromarray(rng.integers(0, 256, (251, 303)).astype(np.uint8)))
    files.append(save(transparent.convert(mode), name))
exif = Image.Exif()
exif[274] = 6  # "turn me": torchvision does not
files.append(save(rgb, "turned.jpg", quality=80, exif=exif))

preprocessings = {
    "imagenet": [T.Resize(256), T.CenterCrop(224)],
    "square-224": [T.Resize((224, 224))],
    "square-61": [T.Resize((61, 61))],
    "bicubic-100": [T.Resize((100, 100), interpolation=T.InterpolationMode.BICUBIC)],
    "bicubic-400": [T.Resize((400, 400), interpolation=T.InterpolationMode.BICUBIC)],
    "nearest-97": [T.Resize((97, 97), interpolation=T.InterpolationMode.NEAREST)],
    "crop-300": [T.CenterCrop(300)],
    "none": [],
}
number = 0
for path in files + given:
    image = Image.open(path).convert("RGB")
    for name, steps in preprocessings.items():
        if name == "imagenet" and min(image.size) < 4:
            continue
        tensor = T.Compose(steps + [T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])(image)
        out = f"{folder}/{number}.f32"
        tensor.numpy().astype("<f4").tofile(out)
        print(path, name, out, sep="\t")
        number += 1
