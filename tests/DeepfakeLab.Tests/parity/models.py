"""What torchvision makes of its own models, for the C# models to be compared with.

usage: models.py FOLDER SIZE NAME...   writes NAME.pth (a state dict) and NAME-result.pth (what comes of it) for each model
       models.py weights NAME...       prints a line for each official weight file with what is known of it
       models.py options FOLDER        writes state dict, input and logits of models made with constructor arguments, by the names below
       models.py keys NAME...          prints a line for each model: name, parameters, then key:shape of its state dict
"""
import copy
import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait starve whatever else runs
import torch
import torchvision


def features(model, x):
    """What enters the model's head, torchvision's way."""
    head = model.fc if hasattr(model, "fc") else model.classifier
    kept = []
    handle = head.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach().clone()))
    model(x)
    handle.remove()
    return kept[0]


def multiply_adds(model, x):
    """Of convolutions and linear layers, an image."""
    total = []

    def count(layer, _, output):
        total.append(output[0].numel() * (layer.weight.numel() // layer.weight.shape[0]))

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    model(x[:1])
    for handle in handles:
        handle.remove()
    return sum(total)


def sample(gradient):
    """All of it, or of a large one every 97th number."""
    return gradient.flatten()[:: 97 if gradient.numel() > 100_000 else 1].clone()


def train(model, x, y, steps):
    """The gradients and buffers of the first step of descent, and the losses of all."""
    descent = torch.optim.SGD(model.parameters(), lr=1e-3)
    gradients, buffers, losses = {}, {}, []
    for step in range(steps):
        descent.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            gradients = {k: sample(p.grad) for k, p in model.named_parameters()}
            buffers = {k: b.clone() for k, b in model.named_buffers()}
        descent.step()
    return gradients, buffers, torch.tensor(losses, dtype=torch.float64)


def results(model, size):
    x, y = torch.randn(4, 3, size, size), torch.arange(4)
    with torch.no_grad():
        model.eval()
        result = {"x": x, "y": y, "logits": model(x), "features": features(model, x), "multiply_adds": torch.tensor([multiply_adds(model, x)])}
    for m in model.modules():  # chance would differ
        if isinstance(m, (torch.nn.Dropout, torchvision.ops.StochasticDepth)):
            m.p = 0.0
    start = copy.deepcopy(model.state_dict())
    model.train()
    small = x[:, :, :48, :48]  # double precision is slow, and below 48 batch norm sees one pixel an image
    single = train(model, small, y, 1)
    nudged = []  # pictures that differ in their last bit: what a ReLU makes of that is what float32 leaves open
    for _ in range(3):
        model.load_state_dict(start)
        nudged.append(train(model, small * (1 + 2.0**-23 * torch.randint(-1, 2, small.shape)), y, 1)[0])
    model.load_state_dict(start)
    double = train(model.double(), small.double(), y, 5)
    for suffix, (gradients, buffers, _) in (("", double), ("32", single)):
        result.update({f"gradient{suffix}/{k}": g for k, g in gradients.items()})
        result.update({f"buffer{suffix}/{k}": b for k, b in buffers.items()})
    result["losses"] = double[2]  # in float32 five steps of descent amplify rounding to per cents in MNASNet and MobileNetV2
    # How far torch's float32 gradients are from its float64 ones, the worst of the four, a parameter.
    result["noise"] = torch.stack([max((g[k] - exact).norm() / exact.norm().clamp_min(1e-30) for g in (single[0], *nudged)) for k, exact in double[0].items()])
    return result


def write(folder, size, names):
    for name in names:
        torch.manual_seed(7)
        model = getattr(torchvision.models, name)()
        fresh = torch.tensor([v.double().sum().item() for v in model.state_dict().values()], dtype=torch.float64)
        for m in model.modules():  # buffers and affine parts that are not all 0 and 1, so that a mistake in them shows
            if isinstance(m, torch.nn.BatchNorm2d):
                m.running_mean.uniform_(-0.1, 0.1)
                m.running_var.uniform_(0.8, 1.2)
                m.weight.data.uniform_(0.8, 1.2)
                m.bias.data.uniform_(-0.1, 0.1)
        torch.save(model.state_dict(), f"{folder}/{name}.pth")
        torch.save({"fresh": fresh, **results(model, size)}, f"{folder}/{name}-result.pth")


def keys(names):
    for name in ("kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_"):
        setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)  # the numbers do not matter here, and take long
    for name in names:
        model = getattr(torchvision.models, name)()
        print(name, sum(p.numel() for p in model.parameters()), *(f"{k}:{'x'.join(map(str, v.shape))}" for k, v in model.state_dict().items()))


def options(folder):
    m, norm = torchvision.models, lambda channels: torch.nn.GroupNorm(4, channels)
    made = {
        "resnet50": m.resnet50(groups=2, width_per_group=48, replace_stride_with_dilation=[False, True, True], num_classes=7),
        "resnet18": m.resnet18(norm_layer=norm, num_classes=7),
        "resnet34": m.ResNet(m.resnet.Bottleneck, [3, 4, 6, 3], num_classes=7),
        "wide_resnet50_2": m.ResNet(m.resnet.BasicBlock, [3, 4, 6, 3], num_classes=7),
        "mobilenet_v2": m.mobilenet_v2(width_mult=0.35, round_nearest=4, norm_layer=norm, num_classes=7,
                                       inverted_residual_setting=[[1, 16, 1, 1], [4, 24, 2, 2], [3, 48, 1, 2]]),
        "mobilenet_v3_large": m.mobilenet_v3_large(width_mult=0.75, reduced_tail=True, dilated=True, num_classes=7),
        "mobilenet_v3_small": m.mobilenet_v3_small(reduced_tail=True, dilated=True, norm_layer=norm, num_classes=7),
        "efficientnet_b0": m.efficientnet_b0(norm_layer=norm, num_classes=7),
    }
    for name, model in made.items():
        x = torch.randn(2, 3, 64, 64)
        torch.save(model.state_dict(), f"{folder}/{name}.pth")
        with torch.no_grad():
            torch.save({"x": x, "logits": model.eval()(x)}, f"{folder}/{name}-result.pth")


def weights(names):
    for name in names:
        entries = torchvision.models.get_model_weights(name)
        for entry in sorted(entries, key=lambda e: (e is entries.DEFAULT, e.name)):
            t, accuracy = entry.transforms(), entry.meta["_metrics"]["ImageNet-1K"]
            print(name, entry.name, entry.url, accuracy["acc@1"], accuracy["acc@5"], t.resize_size[0], t.crop_size[0], t.interpolation.value,
                  *(f"{v:.5f}" for v in t.mean + t.std))


if sys.argv[1] == "keys":
    keys(sys.argv[2:])
elif sys.argv[1] == "options":
    options(sys.argv[2])
elif sys.argv[1] == "weights":
    weights(sys.argv[2:])
else:
    write(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
