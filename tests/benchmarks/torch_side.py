"""The PyTorch side of the comparison: is told on stdin what to measure, answers on stdout, a line of JSON each.

Run with GLIBC_TUNABLES set it has the malloc setting that the C# side gives itself; without, it is as its user has it.
"""
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
prepared = {}


def model_of(name, file):
    model = torchvision.models.get_model(name) if hasattr(torchvision.models, "get_model") else getattr(torchvision.models, name)()
    model.load_state_dict(torch.load(file))
    return model


def features_of(model):
    """The network up to its features [N, F], as the library's VisionModel.Features."""
    if hasattr(model, "fc"):
        model.fc = torch.nn.Identity()
        return model
    body = model.layers if hasattr(model, "layers") else model.features
    if isinstance(model, torchvision.models.VGG):
        return torch.nn.Sequential(body, torch.nn.AdaptiveAvgPool2d(7), torch.nn.Flatten(1))
    return torch.nn.Sequential(body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1))


def prepare(job):
    x = torch.zeros(job["batch"], 3, job["size"], job["size"]).uniform_(-2, 2)
    if job["what"] == "decode":
        files = [open(f, "rb").read() for f in job["files"]]

        def run():
            for data in files:
                image = Image.open(io.BytesIO(data)).convert("RGB").resize((job["size"], job["size"]), Image.BILINEAR)
                torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()

        return run, len(files)
    model = model_of(job["model"], job["file"])
    if job["what"] == "features":
        model = features_of(model).eval()
        if job["variant"] != "eager":
            x = x.contiguous(memory_format=torch.channels_last)
            model = model.to(memory_format=torch.channels_last)
        if job["variant"] == "optimized":
            with torch.no_grad():
                model = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, x)))

        def run():
            with torch.no_grad():
                model(x)

        return run, job["batch"]
    if job["variant"] != "eager":
        x = x.contiguous(memory_format=torch.channels_last)
        model = model.to(memory_format=torch.channels_last)
    labels = torch.arange(job["batch"]) % 2
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    model.train()

    def run():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return run, job["batch"]


for line in sys.stdin:
    job = json.loads(line)
    if job["do"] == "prepare":
        prepared.clear()  # one model at a time in memory
        prepared[job["variant"]] = prepare(job)
        for _ in range(3):
            prepared[job["variant"]][0]()
        print(json.dumps({"ready": True}), flush=True)
    elif job["do"] == "versions":
        print(json.dumps({"torch": torch.__version__, "torchvision": torchvision.__version__, "threads": torch.get_num_threads()}), flush=True)
    else:
        run, images = prepared[job["variant"]]
        began = time.perf_counter()
        for _ in range(job["times"]):
            run()
        print(json.dumps({"rate": images * job["times"] / (time.perf_counter() - began)}), flush=True)
