"""Grad-CAM, Grad-CAM++ and integrated gradients of torchvision models, with hooks; PCA of scikit-learn.

usage: explain.py FOLDER NAME LAYER...   writes NAME.pth (state dict) and NAME-explain.pth (x, and maps by layer)
"""
import sys

import torch
import torchvision

folder, name, layers = sys.argv[1], sys.argv[2], sys.argv[3:]
torch.set_num_threads(1)
torch.manual_seed(11)
model = getattr(torchvision.models, name)(num_classes=10)
if name.startswith("vgg"):  # half a gigabyte of its own head shows nothing of the methods
    model.classifier = torch.nn.Sequential(torch.nn.Linear(25088, 10))
model.eval()
for m in model.modules():
    if isinstance(m, torch.nn.BatchNorm2d):
        m.running_mean.uniform_(-0.1, 0.1)
        m.running_var.uniform_(0.8, 1.2)
        m.weight.data.uniform_(0.8, 1.2)
        m.bias.data.uniform_(-0.1, 0.1)
    if isinstance(m, torch.nn.Linear):
        m.weight.data.normal_(0, 0.5)  # so that gradients are not vanishingly small
TARGET = 3
x = torch.randn(2, 3, 64, 64)
result = {"x": x}


def unit(maps):
    highest = maps.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest, maps).float()


for layer in layers:
    kept = {}

    def forward(_, __, output):
        kept["a"] = output.detach().clone()  # what follows may work in place
        output.register_hook(lambda g: kept.update(g=g.detach().clone()))
        return output.clone()

    handle = dict(model.named_modules())[layer].register_forward_hook(forward)
    model(x)[:, TARGET].sum().backward()
    handle.remove()
    a, g = kept["a"].double(), kept["g"].double()
    result[f"{layer}/cam"] = unit((g.mean((2, 3), keepdim=True) * a).sum(1).relu())
    # equation 19 of the Grad-CAM++ paper, as it stands
    alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3)
    alpha = torch.where(g != 0, alpha, torch.zeros_like(alpha))
    result[f"{layer}/cam++"] = unit(((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu())

def integrated(x):
    total = torch.zeros_like(x)
    for step in range(4):
        at = (x * ((step + 0.5) / 4)).requires_grad_()
        total += torch.autograd.grad(model(at)[:, TARGET].sum(), at)[0]
    return total / 4 * x


torch.save(model.state_dict(), f"{folder}/{name}.pth")
result["ig"] = integrated(x)
model.double()
result["ig64"] = integrated(x.double())
torch.save(result, f"{folder}/{name}-explain.pth")
