"""Loads an exported .pth into torchvision's MobileNetV2 as its model card says, and writes its logits: export.py MODEL.pth IN.pth OUT.pth"""
import sys

import torch
import torchvision

model_file, in_file, out_file = sys.argv[1:]
model = torchvision.models.mobilenet_v2(num_classes=1000)
model.classifier[1] = torch.nn.Linear(1280, 2)
model.load_state_dict(torch.load(model_file))
model.eval()
with torch.no_grad():
    torch.save({"logits": model(torch.load(in_file)["x"])}, out_file)
