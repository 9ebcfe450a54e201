"""torchvision's five likeliest ImageNet classes of scikit-learn's two sample photographs.

usage: classify.py WEIGHTS; prints lines PATH <tab> CLASS <tab> PROBABILITY
"""
import os
import sys

import sklearn.datasets
import torch
import torchvision
from PIL import Image

entry = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1
model = torchvision.models.mobilenet_v2().eval()
model.load_state_dict(torch.load(sys.argv[1]))
for name in ("flower.jpg", "china.jpg"):
    path = os.path.join(os.path.dirname(sklearn.datasets.__file__), "images", name)
    with torch.no_grad():
        probabilities = model(entry.transforms()(Image.open(path).convert("RGB"))[None])[0].softmax(0)
    top = probabilities.topk(5)
    for p, i in zip(top.values, top.indices):
        print(path, entry.meta["categories"][i], f"{p.item():.6f}", sep="\t")
