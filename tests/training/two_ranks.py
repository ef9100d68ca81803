"""One rank of a distributed training of the bundle; test_distributed.py starts two, as torchrun does."""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from ignite.engine import Events
from workflows import make_workflow

from aps_components.errors import plainly


def flat(module):
    return torch.cat([value.detach().double().flatten() for value in module.state_dict().values()])


def started(rank, port, options):
    """The workflow of one rank of two, initialised."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in place.items()}
    torch.set_num_threads(1)
    workflow = make_workflow("train.json", "multi_gpu_train.json", kind="train", options=options)
    workflow.initialize()
    return workflow


def fail_as_rank(rank, port, options, folder):
    """Train until something is wrong; ``folder`` receives the line that a user would read."""
    workflow = started(rank, port, options)
    try:
        workflow.run()
    except Exception as error:
        (Path(folder) / f"said{rank}").write_text(plainly(error))
        os._exit(1)


def train_as_rank(rank, port, options, folder):
    """Train with overrides of train.json; ``folder`` receives what the rank saw."""
    workflow = started(rank, port, options)
    trainer = workflow.parser.get_parsed_content("train#trainer")
    seen = {"labeled": set(), "unlabeled": set(), "losses": [], "teacher_moved": 0.0, "iterations": 0}
    at_first = flat(trainer.teacher.module)

    @trainer.on(Events.ITERATION_COMPLETED)
    def _compare(engine):
        for part, content in engine.state.batch.items():
            seen[part] |= set(content["name"])
        seen["losses"].append(engine.state.output["loss"])
        seen["iterations"] += 1
        for module in (engine.network, engine.teacher):
            mine = flat(module)
            first = mine.clone()
            dist.broadcast(first, src=0)
            assert torch.equal(mine, first), f"ranks differ after iteration {engine.state.iteration}"

    workflow.run()
    seen["teacher_moved"] = (flat(trainer.teacher.module) - at_first).abs().max().item()
    seen["validation"] = workflow.parser.get_parsed_content("validate#evaluator").state.metrics
    seen["validated"] = [item["image"] for item in workflow.parser.get_parsed_content("validate#dataset").data]
    text = json.dumps(seen, default=sorted)
    (Path(folder) / f"rank{dist.get_rank()}.json").write_text(text)
    workflow.finalize()
