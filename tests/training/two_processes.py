"""Run in two processes by `forked_runs.py`: DDP through `train_sft.py`, then FSDP2 as torch shards the model."""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from deft_llm.training import run as training_run
from deft_llm.training.arguments import parse_arguments


def batch_of(run, rank: int, world: int) -> dict:
    """This process's part of a fixed batch."""
    rows = [{**run.trainer.train_dataset[index], "epoch": 0, "place": index} for index in range(4)]
    batch = run.trainer.data_collator(rows)
    batch.pop("clip_ids")
    return batch if world == 1 else {name: value[rank::world] for name, value in batch.items()}


def losses_of(model, batch, steps: int, world: int) -> list[float]:
    """The loss of each step, averaged over the processes, as AdamW goes down it."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(steps):
        tokens = (batch["labels"][:, 1:] != -100).sum()
        scored = tokens.clone()
        if world > 1:
            dist.all_reduce(scored)
        outputs = model(**batch, use_cache=False, skip_logits=True)
        # Processes are averaged over, so what each adds is weighted by its share of the tokens.
        loss = outputs.language_loss * tokens / scored * world
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        if world > 1:
            dist.all_reduce(mean)
        losses.append(float(mean / world))
    return losses


def main(result: str, options: list[str]) -> None:
    """Trains with the options of `train_sft.py`; the first process writes the losses of both ways to `result`."""
    run = training_run.make_run(*parse_arguments(options))
    model = run.trainer.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training_run.train(run)
    history = [entry["loss"] for entry in run.trainer.state.log_history if "loss" in entry]

    rank, world = dist.get_rank(), dist.get_world_size()
    model = run.trainer.accelerator.unwrap_model(run.trainer.model_wrapped)
    model.load_state_dict(before)
    model.train()
    alone = losses_of(model, batch_of(run, 0, 1), 3, 1)
    model.load_state_dict(before)
    mesh = init_device_mesh("cpu", (world,))
    blocks = [module for module in reversed(list(model.modules())) if type(module).__name__ in model._no_split_modules]
    for module in [*blocks, model]:
        fully_shard(module, mesh=mesh)
    sharded = losses_of(model, batch_of(run, rank, world), 3, world)
    if rank == 0:
        held = sum(p.to_local().numel() for p in model.parameters()) / sum(p.numel() for p in model.parameters())
        found = {"ddp": history, "alone": alone, "fsdp2": sharded, "blocks": len(blocks), "held": held}
        Path(result).write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
