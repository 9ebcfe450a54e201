"""The PyTorch side of the comparison: is told on stdin what to measure, answers on stdout, a line of JSON each.

Run with GLIBC_TUNABLES set it has the malloc setting that the C# side gives itself; without, it is as its user has it.
"""
import hashlib
import io
import json
import sys
import time

import numpy as np
import torch
import torchvision
from PIL import Image

threads = int(sys.argv[1])
torch.set_num_threads(threads)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def create(name, **options):
    return torchvision.models.get_model(name, **options) if hasattr(torchvision.models, "get_model") else getattr(torchvision.models, name)(**options)


def decode(data, size):
    """JPEG bytes to uint8 [3, size, size]."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


def normalise(pixels):
    return (pixels.float() / 255 - MEAN) / STD


def read(file):
    with open(file, "rb") as stream:
        return stream.read()


class Pictures(torch.utils.data.Dataset):
    def __init__(self, files, size):
        self.files, self.size = files, size

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return decode(read(self.files[i]), self.size)


def fastest(model, x, variant):
    """The model as it runs fastest on inputs like x, and what inputs must go through."""
    if variant in ("eager", "original"):
        return model, lambda y: y
    last = lambda y: y.contiguous(memory_format=torch.channels_last)
    model = model.to(memory_format=torch.channels_last)
    if variant == "optimized":
        with torch.no_grad():
            model = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, last(x))))
    return model, last


def features_of(model):
    """The network up to its features [N, F], as the library's VisionModel.Features."""
    if hasattr(model, "fc"):
        model.fc = torch.nn.Identity()
        return model
    body = model.layers if hasattr(model, "layers") else model.features
    if isinstance(model, torchvision.models.VGG):
        return torch.nn.Sequential(body, torch.nn.AdaptiveAvgPool2d(7), torch.nn.Flatten(1))
    return torch.nn.Sequential(body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1))


def prepare_features(job, x):
    model = create(job["model"])
    model.load_state_dict(torch.load(job["file"]))
    model, layout = fastest(features_of(model).eval(), x, job["variant"])
    x = layout(x)

    def run():
        with torch.no_grad():
            model(x)

    return run, job["batch"], {}


def prepare_training(job, x):
    model = create(job["model"])
    model.load_state_dict(torch.load(job["file"]))
    model, layout = fastest(model.train(), x, job["variant"])
    x = layout(x)
    labels = torch.arange(job["batch"]) % 2
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def run():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return run, job["batch"], {}


def prepare_decode(job, x):
    contents = [read(f) for f in job["files"]]
    total = hashlib.sha256()
    for data in contents:
        total.update(decode(data, job["size"]).numpy().tobytes())

    def run():
        for data in contents:
            decode(data, job["size"])

    return run, len(contents), {"hash": total.hexdigest()}


def prepare_predict(job, x):
    """A script as one writes it; tuned, with the loader's worker processes decoding ahead and the fastest form of the model."""
    model = create(job["model"], num_classes=2)
    model.load_state_dict(torch.load(job["file"]))
    model, layout = fastest(model.eval(), x, job["variant"])
    workers = 0 if job["variant"] == "eager" else threads

    def answers():
        given = []
        for batch in torch.utils.data.DataLoader(Pictures(job["files"], job["size"]), job["batch"], num_workers=workers):
            with torch.no_grad():
                y = layout(normalise(batch))
                given.append((model(y).softmax(1) + model(layout(y.flip(3))).softmax(1)) / 2)
        return torch.cat(given)[:, 0].tolist()

    return answers, len(job["files"]), {"answers": answers()}


def prepare_experiment(job, x):
    """Images decoded once, the frozen layers run once, in batches; then epochs of the layers after the cut, each with a validation."""
    says, size, train, cut = {}, job["size"], job["train"], job["cut"]
    files, labels = job["files"], torch.arange(len(job["files"])) % 2
    epochs = len(job["orders"])

    def load():
        model = create("efficientnet_b0", num_classes=2)
        model.classifier = torch.nn.Sequential(
            torch.nn.Linear(1280, 512), torch.nn.ReLU(True), torch.nn.Linear(512, 256), torch.nn.ReLU(True), torch.nn.Linear(256, 2))
        model.load_state_dict(torch.load(job["file"]))
        frozen, tail = model.features[:cut].eval(), torch.nn.Sequential(model.features[cut:], torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1), model.classifier)
        for p in frozen.parameters():
            p.requires_grad_(False)
        learning = list(tail.parameters())
        optimizer = torch.optim.AdamW([
            {"params": [p for p in learning if p.dim() > 1], "weight_decay": job["decay"]},
            {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0}], job["rate"])
        return frozen, tail, learning, optimizer

    def step(optimizer, learning, loss):
        penalty = job["l1"] * sum(p.abs().sum() for p in learning) + job["l2"] * sum(p.square().sum() for p in learning)
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()

    def run():
        frozen, tail, learning, optimizer = load()
        frozen, layout = fastest(frozen, x, job["variant"])
        if job["variant"] != "eager":
            tail = tail.to(memory_format=torch.channels_last)
        workers = 0 if job["variant"] == "eager" else threads
        with torch.no_grad():
            features = torch.cat([frozen(layout(normalise(batch))) for batch in torch.utils.data.DataLoader(Pictures(files, size), job["batch"], num_workers=workers)])
        losses, held = [], []
        for order in job["orders"]:
            tail.train()
            sum_of = 0.0
            for at in range(0, train, job["batch"]):
                rows = torch.tensor(order[at:at + job["batch"]])
                loss = torch.nn.functional.cross_entropy(tail(layout(features[rows])), labels[rows])
                sum_of += loss.item()
                step(optimizer, learning, loss)
            tail.eval()
            with torch.no_grad():
                logits = torch.cat([tail(layout(part)) for part in features[train:].split(64)])
                held.append(torch.nn.functional.cross_entropy(logits, labels[train:]).item())
            losses.append(sum_of / (train // job["batch"]))
        says["losses"], says["held"] = losses, held

    return run, train * epochs, says


def prepare_original(job, x):
    """The original's way: one image at a time through the whole network, all training images scored anew after every tenth batch."""
    says, train = {}, job["train"]
    model = create("efficientnet_b0", num_classes=2)
    for p in model.features[:job["cut"]].parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], job["rate"])
    sample = 64

    def run():
        model.train()
        began = time.perf_counter()
        for at in range(0, sample, job["batch"]):
            optimizer.zero_grad()
            loss = 0
            for i in range(at, at + job["batch"]):
                loss = loss + torch.nn.functional.cross_entropy(model(normalise(decode(read(job["files"][i]), job["size"])).unsqueeze(0)), torch.tensor([i % 2]))
            (loss / job["batch"]).backward()
            optimizer.step()
        learned = (time.perf_counter() - began) / sample
        began = time.perf_counter()
        with torch.no_grad():
            for i in range(sample):
                model(normalise(decode(read(job["files"][i]), job["size"])).unsqueeze(0))
        scored = (time.perf_counter() - began) / sample
        batches, epochs = train // job["batch"], len(job["orders"])
        says["seconds"] = epochs * train * (learned + batches // 10 * scored)
        says["rate"] = epochs * train / says["seconds"]
        says["measured"] = (f"{says['seconds']:.0f} s, reckoned from {sample} images learned ({1000 * learned:.0f} ms each) and {sample} scored ({1000 * scored:.0f} ms each): "
                            f"{epochs} epochs of {train} images, in each {batches // 10} times all of them scored")

    return run, train * len(job["orders"]), says


work = None
for line in sys.stdin:
    job = json.loads(line)
    if job["do"] == "versions":
        print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__, "threads": torch.get_num_threads()}), flush=True)
    elif job["do"] == "prepare":
        x = torch.zeros(job["batch"], 3, job["size"], job["size"]).uniform_(-2, 2)
        what = "original" if job["variant"] == "original" else job["what"]
        work = globals()["prepare_" + what](job, x)
        again = job["what"] != "experiment"
        if again:
            began, times = time.perf_counter(), 0
            while times < 3 and (times == 0 or time.perf_counter() - began < 2):
                work[0]()
                times += 1
        print(json.dumps(work[2]), flush=True)
    else:
        run, images, says = work
        if again:
            run()  # not timed: the other sides have had the caches since
        began, times = time.perf_counter(), 0
        while times == 0 or time.perf_counter() - began < 1:
            run()
            times += 1
        seconds = time.perf_counter() - began
        print(json.dumps({"rate": images * times / seconds, "seconds": seconds / times, **says}), flush=True)
