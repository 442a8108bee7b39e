"""Are the experts disentangled, does the motion drive the answer, and does every loss term earn its place?

    python benchmarks/science/disentanglement.py --table experts entangled cost
    python benchmarks/science/disentanglement.py --table ablation

Models of `recipes/tiny.yaml` are trained on rendered faces, three seeds each, and judged on faces they have not seen:

- `experts` (preset `easy`): what linear probes read from the experts' tokens, where the action units' queries look,
  whether the answer's claims are true, and what is left without pixels or with foreign flow.
- `entangled` (preset of that name): in training a face's look goes with one emotion; UF1 on unseen faces where that
  still holds and where every look goes with another emotion, beside the same network with plain frames in one expert.
- `ablation`: the same preset, every term of the objective off, one at a time; the heads on the faces whose look goes
  with another emotion. Experts and heads are trained alone, as in the stage `experts`: the language term has no say.
- `cost`: language tokens a clip, and the prefill against the bare language model at equal length.

Given are mean and spread (least to most) over the seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from clip_sets import ClipSet, clip_sets, recipe
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deft_llm.evaluation.generation import generate_answers
from deft_llm.evaluation.metrics import au_metrics, emotion_metrics
from deft_llm.files import code_fingerprint
from deft_llm.modeling_deft.experts_deft import TextureExpert, region_masks
from deft_llm.processing.action_units import get_action_unit
from deft_llm.processing.motion_evidence import octants_apart
from deft_llm.training.arguments import ModelArguments
from deft_llm.training.collator import DeftCollator
from deft_llm.training.parts import build_model

ROOT = Path(__file__).resolve().parents[2]
CLIPS = 1260  # 70 faces of 18 clips; the last fifth is the test split
SEEDS = 3
TERMS: dict[str, dict[str, Any]] = {
    "everything": {},
    "without emotion": {"loss_weights": {"emotion": 0.0}},
    "without action_unit": {"loss_weights": {"action_unit": 0.0}},
    "action_unit as plain cross-entropy": {"action_unit_focus": 0.0},
    "without region": {"loss_weights": {"region": 0.0}},
    "without side": {"loss_weights": {"side": 0.0}},
    "without intensity": {"loss_weights": {"intensity": 0.0}},
    "without alignment": {"loss_weights": {"alignment": 0.0}},
    "without appearance swap": {"appearance_swap": 0.0},
    "without expert dropout": {"expert_dropout": 0.0},
}


class PlainFrames(TextureExpert):
    """The entangled baseline: the same backbone, resampler and head, fed the frames as they are."""

    def changes(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        return pixel_values_videos


# --- Training -------------------------------------------------------------------------------------------------------


def train(
    rows: Dataset, clips: ClipSet, seed: int, steps: int, config: dict[str, Any], plain: bool, text: bool = True
):
    """Model and processor, trained by the tiny recipe; `plain` trains the entangled baseline instead, and without
    `text` the language model is not run."""
    torch.manual_seed(seed)
    settings = recipe()
    names = ModelArguments.__dataclass_fields__
    arguments = ModelArguments(**{name: value for name, value in settings.items() if name in names})
    model, processor = build_model(arguments, rows)
    for name, value in config.items():
        setattr(model.config, name, {**model.config.loss_weights, **value} if name == "loss_weights" else value)
    if plain:
        model.model.recognition.texture_expert.__class__ = PlainFrames
    collator = DeftCollator(
        processor,
        settings["task_weights"],
        0.0 if plain else settings["appearance_dropout"],
        seed=seed,
        text=text and not plain,
        conventions=model.config.label_conventions,
    )
    usable = [
        index
        for index, row in enumerate(clips.rows)
        if any(item["task"] in settings["task_weights"] for item in row["conversations"])
    ]
    rate, size = settings["learning_rate"], settings["per_device_train_batch_size"]
    collator.step_size = size
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=settings["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.07, cycle_momentum=False)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    model.train()
    for step in range(steps):
        while len(order) < size:
            order += [usable[index] for index in torch.randperm(len(usable), generator=generator)]
        chosen, order = order[:size], order[size:]
        batch = collator(clips.examples(chosen, processor, step * size))
        del batch["clip_ids"]
        if plain:
            batch = {name: batch[name] for name in ("pixel_values_videos", "emotion_labels")}
            loss = model(**batch, silenced_experts=("structure",)).loss
        else:
            loss = model(**batch, skip_logits=True).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        optimizer.step()
        schedule.step()
    return model.eval(), processor


# --- What is measured -----------------------------------------------------------------------------------------------


def recognise(model: Any, clips: ClipSet, *, pixels: bool = True, flow: torch.Tensor | None = None, **arguments: Any):
    """Emotion and unit scores, expert states and attention, each stacked over all clips."""
    collected: dict[str, list[torch.Tensor]] = {}
    for inputs in clips.batches(32, pixels=pixels, flow=flow):
        with torch.inference_mode():
            outputs = model.model(**inputs, **arguments)
        for name in ("emotion_logits", "au_logits", "au_side_logits", "au_intensity", "au_attentions"):
            if name in outputs:
                collected.setdefault(name, []).append(outputs[name])
        for name, states in outputs.expert_states.items():
            collected.setdefault(f"{name}_tokens", []).append(states.flatten(1))
        for name, states in outputs.expert_tokens.items():
            collected.setdefault(f"{name}_language_tokens", []).append(states)
    return {name: torch.cat(parts) for name, parts in collected.items()}


def head_uf1(found: dict[str, torch.Tensor], clips: ClipSet, labels: list[str]) -> float:
    """UF1 in percent of the emotion head over the clips that show an expression."""
    shown = [index for index, row in enumerate(clips.rows) if row["emotion"] in labels]
    predicted = [labels[index] for index in found["emotion_logits"].argmax(-1)[shown].tolist()]
    return 100 * emotion_metrics([clips.rows[index]["emotion"] for index in shown], predicted, labels)["uf1"]


def probe():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def identity_probe(states: torch.Tensor, faces: np.ndarray) -> float:
    """Accuracy in percent, above chance, of naming the face: fitted on every other clip of each and read on the rest,
    and the other way round."""
    values, number = np.unique(faces, return_inverse=True)
    rank = np.array([np.sum(number[:index] == face) for index, face in enumerate(number)])
    halves = rank % 2 == 0, rank % 2 == 1
    found = [
        probe().fit(states[one], number[one]).score(states[other], number[other])
        for one, other in (halves, halves[::-1])
    ]
    return 100 * (float(np.mean(found)) - 1 / len(values))


def unit_probe(name: str, train_found: Any, train_units: np.ndarray, found: Any, units: np.ndarray):
    """Macro F1 and balanced accuracy above chance, in percent, of a probe for each unit; fitted on other faces."""
    f1, balanced = [], []
    for column in range(units.shape[1]):
        if train_units[:, column].sum() >= 5 and units[:, column].sum() > 0:
            fitted = probe().fit(train_found[f"{name}_tokens"], train_units[:, column])
            answers = fitted.predict(found[f"{name}_tokens"])
            f1.append(f1_score(units[:, column], answers, average="macro"))
            balanced.append(balanced_accuracy_score(units[:, column], answers) - 0.5)
    return 100 * float(np.mean(f1)), 100 * float(np.mean(balanced))


def attention_in_region(model: Any, found: dict[str, torch.Tensor], units: np.ndarray) -> tuple[float, float]:
    """Mean attention mass inside the region, and share of maps whose peak is inside it, of the present units."""
    regions = region_masks(model.config, torch.device("cpu"))
    maps = found["au_attentions"].sum(2)
    chosen = torch.from_numpy(units == 1) & regions.any(-1)
    mass = (maps * regions).sum(-1)[chosen]
    hit = regions.expand(len(maps), -1, -1).gather(2, maps.argmax(-1, keepdim=True)).squeeze(-1)[chosen]
    return 100 * float(mass.mean()), 100 * float(hit.float().mean())


def name_retrieval(model: Any, found: dict[str, torch.Tensor], units: np.ndarray) -> float:
    """Share in percent of present units whose token is nearest to the language model's embedding of its name."""
    names = torch.nn.functional.normalize(model.action_unit_names()[0].detach(), dim=-1)
    tokens = torch.nn.functional.normalize(found["motion_language_tokens"], dim=-1)
    nearest = (tokens @ names.T).argmax(-1)
    return 100 * float((nearest == torch.arange(len(names)))[torch.from_numpy(units == 1)].float().mean())


def answers(
    model: Any,
    processor: Any,
    clips: ClipSet,
    *,
    pixels: bool = True,
    flow: torch.Tensor | None = None,
    grounded: bool = False,
) -> list[Any]:
    """The parsed answer to the full question for each clip."""
    reports = []
    for tensors in clips.batches(24, pixels=pixels, flow=flow):
        questions = [processor.default_instruction] * len(tensors["flow_values_videos"])
        with torch.inference_mode():
            recognition = model.model(**tensors)
        written = generate_answers(model, processor, tensors, questions, 200, recognition, grounded=grounded)
        reports += processor.post_process_expression(written)
    return reports


def text_uf1(reports: list[Any], clips: ClipSet, labels: list[str]) -> float:
    shown = [index for index, row in enumerate(clips.rows) if row["emotion"] in labels]
    true = [clips.rows[index]["emotion"] for index in shown]
    return 100 * emotion_metrics(true, [reports[index].emotion for index in shown], labels)["uf1"]


def claims(reports: list[Any], clips: ClipSet) -> dict[str, float]:
    """Precision and recall, in percent, of the units, sides and directions that the answers claim.

    True is what was rendered: the unit, its side, and its region moving within one octant of the atlas's direction.
    """
    counts = {name: np.zeros(3) for name in ("unit", "side", "direction")}  # claimed, true, both
    for report, row in zip(reports, clips.rows, strict=True):
        true = {unit["code"]: unit["side"] for unit in row["action_units"]}
        claimed = {unit.code: unit.side for unit in report.action_units}
        both = set(true) & set(claimed)
        moved = {item.action_unit for item in report.evidence if true_direction(item) and item.action_unit in true}
        counts["unit"] += (len(claimed), len(true), len(both))
        counts["side"] += (len(claimed), len(true), sum(true[code] == claimed[code] for code in both))
        counts["direction"] += (len({item.action_unit for item in report.evidence}), len(true), len(moved))
    result = {}
    for name, (claimed, true, both) in counts.items():
        result[f"{name} precision"] = 100 * both / max(claimed, 1)
        result[f"{name} recall"] = 100 * both / max(true, 1)
    return result


def true_direction(item: Any) -> bool:
    """Whether the atlas moves the unit's region where the evidence says, within one octant."""
    apart = [
        octants_apart(item.direction, motion.phrase)
        for motion in get_action_unit(item.action_unit).motions
        if motion.region == item.region
    ]
    return any(steps is not None and steps <= 1 for steps in apart)


def foreign_flow(processor: Any, clips: ClipSet, seed: int) -> torch.Tensor:
    """The clips' flow as a features-only set may hold it: 28 × 28, in a unit of its own, brought into the model's."""
    flow = clips.tensors["flow_values_videos"].float()
    unit = float(np.exp(np.random.default_rng(seed).normal(0, 1)))
    small = torch.nn.functional.interpolate(flow.flatten(0, 1), (28, 28), mode="area").unflatten(0, flow.shape[:2])
    return torch.from_numpy(processor.video_processor.adopt_flow((unit * small).numpy(), unit=None))


# --- Tables ---------------------------------------------------------------------------------------------------------


def experts_job(seed: int, *, place: Path, clips: int, steps: int) -> dict[str, float]:
    rows, sets = clip_sets("easy", place, clips)
    model, processor = train(rows["train"], sets["train"], seed, steps, {}, plain=False)
    labels, codes = processor.emotion_labels, processor.action_units
    train_found, found = recognise(model, sets["train"]), recognise(model, sets["test"])
    train_units, units = sets["train"].units(codes), sets["test"].units(codes)
    faces = sets["test"].faces()
    foreign = foreign_flow(processor, sets["test"], seed)
    result = {"UF1, head": head_uf1(found, sets["test"], labels)}
    present = torch.from_numpy(units == 1)
    sides = sets["test"].unit_details(list(range(len(units))), codes)["au_side_labels"][present]
    result["side, head"] = 100 * float((found["au_side_logits"].argmax(-1)[present] == sides).float().mean())
    result["AU F1, head"] = 100 * au_metrics(units, (found["au_logits"] > 0).int().numpy())["au_f1"]
    for name in ("motion", "texture", "structure"):
        result[f"identity from {name} tokens, above chance"] = identity_probe(found[f"{name}_tokens"], faces)
    for name in ("motion", "texture", "structure"):
        f1, balanced = unit_probe(name, train_found, train_units, found, units)
        result[f"AU from {name} tokens, macro F1"] = f1
        result[f"AU from {name} tokens, balanced accuracy above chance"] = balanced
    mass, pointing = attention_in_region(model, found, units)
    result |= {"AU attention inside the region": mass, "pointing game": pointing}
    result["AU token finds its name"] = name_retrieval(model, found, units)
    reports = answers(model, processor, sets["test"])
    result["answers that parse"] = 100 * float(np.mean([report.parsed for report in reports]))
    result["UF1, answer"] = text_uf1(reports, sets["test"], labels)
    result |= {f"claims: {name}": value for name, value in claims(reports, sets["test"]).items()}
    reports = answers(model, processor, sets["test"], grounded=True)
    result["UF1, grounded answer"] = text_uf1(reports, sets["test"], labels)
    result |= {f"grounded claims: {name}": value for name, value in claims(reports, sets["test"]).items()}
    for name, flow in (("no pixels", None), ("no pixels, 28 × 28 flow of unknown unit", foreign)):
        result[f"UF1, head, {name}"] = head_uf1(
            recognise(model, sets["test"], pixels=False, flow=flow), sets["test"], labels
        )
        reports = answers(model, processor, sets["test"], pixels=False, flow=flow)
        result[f"UF1, answer, {name}"] = text_uf1(reports, sets["test"], labels)
    return result


def entangled_job(seed: int, *, place: Path, clips: int, steps: int, plain: bool) -> dict[str, float]:
    rows, sets = clip_sets("entangled", place, clips)
    model, processor = train(rows["train"], sets["train"], seed, steps, {}, plain)
    labels, result = processor.emotion_labels, {}
    for look in ("same_look", "turned_look"):
        name = look.replace("_", " ")
        if plain:
            found = recognise_plain(model, sets[look])
            result[f"plain frames: UF1, {name}"] = head_uf1(found, sets[look], labels)
        else:
            result[f"DEFT: UF1, head, {name}"] = head_uf1(recognise(model, sets[look]), sets[look], labels)
            result[f"DEFT: UF1, answer, {name}"] = text_uf1(answers(model, processor, sets[look]), sets[look], labels)
    return result


def recognise_plain(model: Any, clips: ClipSet) -> dict[str, torch.Tensor]:
    flow = clips.tensors.pop("flow_values_videos")
    try:
        return recognise(model, clips, silenced_experts=("structure",))
    finally:
        clips.tensors["flow_values_videos"] = flow


def ablation_job(seed: int, *, place: Path, clips: int, steps: int, name: str) -> dict[str, float]:
    rows, sets = clip_sets("entangled", place, clips)
    _, easy = clip_sets("easy", place, clips)
    model, processor = train(rows["train"], sets["train"], seed, steps, TERMS[name], plain=False, text=False)
    labels, codes = processor.emotion_labels, processor.action_units
    turned = sets["turned_look"]
    found, units = recognise(model, turned), turned.units(codes)
    present = units == 1
    details = turned.unit_details(list(range(len(turned))), codes)
    sides = (found["au_side_logits"].argmax(-1) == details["au_side_labels"])[torch.from_numpy(present)]
    known = torch.from_numpy(present) & (details["au_intensity_labels"] >= 0)
    off = (found["au_intensity"].clamp(0, 4) - details["au_intensity_labels"]).abs()[known]
    mass, pointing = attention_in_region(model, found, units)
    # Of `easy`, whose faces are not tied to emotions: there identity is not read off the emotion.
    free, faces = recognise(model, easy["test"]), easy["test"].faces()
    result = {
        "UF1, head": head_uf1(found, turned, labels),
        "… no pixels": head_uf1(recognise(model, turned, pixels=False), turned, labels),
        "AU F1": 100 * au_metrics(units, (found["au_logits"] > 0).int().numpy())["au_f1"],
        "side": 100 * float(sides.float().mean()),
        "intensity error": float(off.mean()),
        "region mass": mass,
        "pointing": pointing,
        "AU name": name_retrieval(model, found, units),
        "identity, motion": identity_probe(free["motion_tokens"], faces),
        "identity, texture": identity_probe(free["texture_tokens"], faces),
    }
    return result


def code_hash() -> str:
    packages = ("hub_datasets", "modeling_deft", "processing", "training")
    own = (Path(__file__), Path(__file__).with_name("clip_sets.py"), ROOT / "recipes" / "tiny.yaml")
    return code_fingerprint(*(f"deft_llm.{name}" for name in packages), *own)[:12]


def run_job(job: tuple[str, int, dict[str, Any]], *, place: Path, clips: int, steps: int) -> dict[str, float]:
    """One training and what is measured of it; kept, so that an interrupted run goes on where it was."""
    kind, seed, arguments = job
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    name = "-".join([kind, str(seed), str(steps), *map(str, arguments.values()), code_hash()]).replace(" ", "_")
    path = place / f"{name}.json"
    if not path.exists():
        start = time.perf_counter()
        result = JOBS[kind](seed, place=place, clips=clips, steps=steps, **arguments)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        path.write_text(json.dumps(result))
    return json.loads(path.read_text())


JOBS = {"experts": experts_job, "entangled": entangled_job, "ablation": ablation_job}


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def print_rows(results: list[dict[str, float]]) -> None:
    for name in results[0]:
        print(f"| {name} | {spread([result[name] for result in results])} |")


def cost(place: Path, clips: int) -> None:
    """Language tokens a clip, and the prefill against the bare language model with as many tokens."""
    rows, sets = clip_sets("easy", place, clips)
    settings = recipe()
    names = ModelArguments.__dataclass_fields__
    arguments = ModelArguments(**{name: value for name, value in settings.items() if name in names})
    # A language model of a size at which a prefill is more than overhead.
    arguments.text = {
        **settings["text"],
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
    }
    model, processor = build_model(arguments, rows["train"])
    model.eval()
    tensors = sets["test"].clips(slice(0, 1))
    content = [{"type": "video"}, {"type": "text", "text": processor.default_instruction}]
    prompt = processor.render_prompt([{"role": "user", "content": content}], tensors)
    inputs = processor.tokenizer([prompt], add_special_tokens=False, return_tensors="pt")
    embedded = model.get_input_embeddings()(inputs["input_ids"]).detach()
    times: dict[str, list[float]] = {"DEFT": [], "bare": []}
    with torch.inference_mode():
        for _ in range(15):
            for name, call in (
                ("DEFT", lambda: model(**inputs, **tensors, use_cache=True)),
                ("bare", lambda: model.lm_head(model.model.language_model(inputs_embeds=embedded, use_cache=True)[0])),
            ):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    deft, bare = (1000 * statistics.median(values[5:]) for values in times.values())
    config = model.config
    tokens = config.structure_tokens + config.texture_tokens + config.motion_tokens
    print(f"| language tokens a clip | {tokens} |")
    print(f"| prompt of {inputs['input_ids'].shape[1]} tokens, prefill, ms | {deft:.1f} |")
    print(f"| bare language model, as many tokens, ms | {bare:.1f} |")
    print(f"| ratio | {deft / bare:.2f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = ("experts", "entangled", "ablation", "cost")
    parser.add_argument("--table", nargs="+", choices=tables, default=tables)
    parser.add_argument("--clips", type=int, default=CLIPS, help="of each preset")
    parser.add_argument("--steps", type=int, default=700, help="of training")
    parser.add_argument("--ablation-steps", type=int, default=350)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--terms", nargs="+", choices=TERMS, default=list(TERMS), metavar="TERM")
    parser.add_argument("--workers", type=int, default=2, help="trainings at once, a thread each")
    parser.add_argument("--place", type=Path, default=Path("build/bench-disentanglement"))
    arguments = parser.parse_args()
    arguments.place.mkdir(parents=True, exist_ok=True)
    presets = {"experts": ("easy",), "cost": ("easy",), "entangled": ("entangled",), "ablation": ("easy", "entangled")}
    for preset in sorted({preset for table in arguments.table for preset in presets[table]}):
        clip_sets(preset, arguments.place, arguments.clips)
    jobs: list[tuple[str, int, dict[str, Any]]] = []
    for seed in range(arguments.seeds):
        if "experts" in arguments.table:
            jobs.append(("experts", seed, {}))
        if "entangled" in arguments.table:
            jobs += [("entangled", seed, {"plain": plain}) for plain in (False, True)]
        if "ablation" in arguments.table:
            jobs += [("ablation", seed, {"name": name}) for name in arguments.terms]
    jobs.sort(key=lambda job: job[0] == "ablation")  # the longest queue last
    settings = {"place": arguments.place, "clips": arguments.clips}
    found: dict[tuple, list[dict[str, float]]] = {}
    with ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(
                partial(
                    run_job, **settings, steps=arguments.ablation_steps if job[0] == "ablation" else arguments.steps
                ),
                job,
            )
            for job in jobs
        ]
        for (kind, _, options), future in zip(jobs, futures, strict=True):
            found.setdefault((kind, *options.values()), []).append(future.result())
    for (kind, *_), results in found.items():
        if kind != "ablation":
            print(f"\n| {kind}, {arguments.seeds} seeds | % |\n|---|---|")
            print_rows(results)
    ablated = {options[0]: results for (kind, *options), results in found.items() if kind == "ablation"}
    if ablated:
        columns = list(next(iter(ablated.values()))[0])
        print(f"\n| {arguments.ablation_steps} steps, turned look | {' | '.join(columns)} |")
        print(f"|---|{'---|' * len(columns)}")
        for name, results in ablated.items():
            cells = [
                spread([result[column] for result in results]) if column in results[0] else "" for column in columns
            ]
            print(f"| {name} | {' | '.join(cells)} |")
    if "cost" in arguments.table:
        print("\n| cost | |\n|---|---|")
        cost(arguments.place, arguments.clips)
    return 0


if __name__ == "__main__":
    sys.exit(main())
