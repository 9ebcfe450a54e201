"""Images varied by torchvision's functional forms: writes the images and each result as raw float32 into the folder given."""
import sys

import numpy as np
import torch
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

torch.manual_seed(3)
folder = sys.argv[1]
smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 6, 8), size=(40, 48), mode="bicubic", align_corners=False)
images = ((smooth + 0.05 * torch.randn(4, 3, 40, 48)) * 200).clamp(0, 255).round().to(torch.uint8)
images[3] = images[3] // 4 + 90  # a dull one
images[2, 1] = 77  # and one with a flat channel
x = images.float()


def save(name, tensors):
    torch.stack(list(tensors)).float().numpy().astype(np.float32).tofile(f"{folder}/{name}")


save("images", images)
save("affine", [F.affine(i, angle, [tx, ty], scale, [sx, sy], interpolation=InterpolationMode.BILINEAR) for i, (angle, tx, ty, scale, sx, sy)
                in zip(x, [(0, 0, 0, 1, 0, 0), (20, 0, 0, 1, 0, 0), (-8, 3, -2, 1.2, 10, 0), (30, -4, 5, 0.8, -15, 7)])])
save("crop", [F.resized_crop(i, *part, [40, 48], antialias=False) for i, part in zip(x, [(0, 0, 40, 48), (3, 7, 30, 28), (10, 0, 20, 48), (39, 47, 1, 1)])])
save("hue", [F.adjust_hue(i / 255, h) * 255 for i, h in zip(x, [0.0, 0.1, -0.3, 0.5])])
save("autocontrast", [F.autocontrast(i / 255) * 255 for i in x])
save("equalize", F.equalize(images))
save("blur", [F.gaussian_blur(i, [9, 9], [s, s]) for i, s in zip(x, [0.1, 0.7, 1.5, 3.0])])
save("jpeg", [decode_jpeg(encode_jpeg(i, q)) for i, q in zip(images, [95, 75, 50, 10])])
