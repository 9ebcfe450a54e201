"""For each model named: torchvision's own state dict, an input, and what torchvision makes of it.

usage: models.py FOLDER SIZE NAME...
"""
import sys

import torch
import torchvision

folder, size, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
torch.set_num_threads(2)


def features(model, x):
    """What enters the model's head, torchvision's way."""
    head = model.fc if hasattr(model, "fc") else model.classifier
    kept = []
    handle = head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach().clone()))
    model(x)
    handle.remove()
    return kept[0]


for name in names:
    torch.manual_seed(7)
    model = getattr(torchvision.models, name)().eval()
    fresh = {k: v.double().sum().item() for k, v in model.state_dict().items()}  # of the seeded initialisation
    for m in model.modules():  # buffers and affine parts that are not all 0 and 1, so that a mistake in them shows
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.uniform_(-0.1, 0.1)
            m.running_var.uniform_(0.8, 1.2)
            m.weight.data.uniform_(0.8, 1.2)
            m.bias.data.uniform_(-0.1, 0.1)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        result = {"x": x, "logits": model(x), "features": features(model, x)}
    torch.save(model.state_dict(), f"{folder}/{name}.pth")
    torch.save(result, f"{folder}/{name}-result.pth")
    torch.save({"sums": torch.tensor(list(fresh.values()), dtype=torch.float64)}, f"{folder}/{name}-fresh.pth")
