import torch

steps = 50
parameter = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.AdamW([parameter], lr=4e-4)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-4, total_steps=steps, pct_start=0.3)
for step in range(steps):
    print(repr(optimizer.param_groups[0]["lr"]))
    optimizer.step()
    if step < steps - 1:
        schedule.step()
