"""Writes a JPEG for each EXIF orientation and what PIL makes of it. usage: orientation.py FOLDER"""
import sys
import numpy as np
from PIL import Image, ImageOps

rng = np.random.default_rng(1)
picture = Image.fromarray(rng.integers(0, 256, (24, 40, 3)).astype(np.uint8))
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[274] = orientation
    path = f"{sys.argv[1]}/{orientation}.jpg"
    picture.save(path, exif=exif, quality=95)
    ImageOps.exif_transpose(Image.open(path)).convert("RGB").save(path.replace("jpg", "png"))
