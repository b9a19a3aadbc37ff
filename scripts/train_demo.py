#!/usr/bin/env python
"""Train the small model that ships with nnblip, from scratch, on the CPU.

    python scripts/train_demo.py --work build/demo --steps 8000   # stops and resumes at will
    python scripts/train_demo.py --work build/demo --export nnblip/demo/model
    python scripts/train_demo.py --card nnblip/demo/model    # effects, and the model card

Data: generated scenes (`nnblip.datasets.scenes`, seed 0) and the training split of
easy-VQA. Three things make a model of this size learn to bind a shape to its color:
initial weights wider than transformers' defaults; an auxiliary loss that reads from
each image patch which shape, color and ground lie there, and from the [CLS] patch how
many of each shape there are (linear layers, thrown away after training), alone for the first steps; and a
curriculum over the number of objects. From `--turn` on, easy-VQA gets the larger share.
Every step draws its batch from (seed, step) alone, so a stopped run goes on as if it had
not been stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from nnblip.datasets import scenes

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
HIDDEN, HEADS, MLP, TEXT_LAYERS, VISION_LAYERS, PATCH = 128, 4, 512, 6, 4, 8
SIDE = scenes.SIZE // PATCH
TRAIN_SEED, TEST_SEED, SAMPLE_SEED = 0, 1, 2
QUESTIONS = 4  # about each picture of a step
N_SHAPES, N_COLORS, N_GROUNDS = len(scenes.SHAPES), len(scenes.COLORS), len(scenes.GROUNDS)


# --- the model and its processor ---------------------------------------------------


def vocabulary() -> list[str]:
    """[PAD] [UNK] [CLS] [SEP] [MASK], the words of both data sets, [DEC] [ENC]."""
    words = dict.fromkeys(scenes.vocabulary())
    for split in ("train", "test"):
        for question, answer, _ in easy_questions(split):
            words.update(dict.fromkeys(f"{question} {answer}".replace("?", " ?").split()))
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, "[DEC]", "[ENC]"]


def build_processor(words: list[str]) -> Any:
    """The `BlipProcessor` of the small model: 64 x 64 pictures, a vocabulary of words."""
    from transformers import BertTokenizer, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = BertTokenizer(
        vocab={word: i for i, word in enumerate(words)}, model_max_length=32, extra_special_tokens=["[DEC]", "[ENC]"]
    )
    side = {"height": scenes.SIZE, "width": scenes.SIZE}
    images = BlipImageProcessorPil(size=side, image_mean=MEAN.flatten().tolist(), image_std=STD.flatten().tolist())
    return BlipProcessor(images, tokenizer)


def build_model(words: list[str], seed: int) -> Any:
    """A `BlipForQuestionAnswering` with fresh weights at a scale that learns."""
    from transformers import BlipConfig, BlipForQuestionAnswering

    config = BlipConfig(
        text_config=dict(
            vocab_size=len(words), hidden_size=HIDDEN, encoder_hidden_size=HIDDEN, intermediate_size=MLP,
            num_hidden_layers=TEXT_LAYERS, num_attention_heads=HEADS, max_position_embeddings=32,
            projection_dim=HIDDEN, is_decoder=True, initializer_range=0.06, pad_token_id=0,
            bos_token_id=words.index("[DEC]"), sep_token_id=words.index("[SEP]"), eos_token_id=words.index("[SEP]"),
        ),
        vision_config=dict(
            hidden_size=HIDDEN, intermediate_size=MLP, num_hidden_layers=VISION_LAYERS, num_attention_heads=HEADS,
            image_size=scenes.SIZE, patch_size=PATCH, projection_dim=HIDDEN, initializer_range=0.06,
        ),
        initializer_range=0.06,
        projection_dim=HIDDEN,
        image_text_hidden_size=HIDDEN,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = BlipForQuestionAnswering(config)
    for name, weight in model.named_parameters():
        if "position_embedding" in name or "class_embedding" in name:
            nn.init.normal_(weight, 0.0, 0.3)
    return model


class Auxiliary(nn.Module):
    """What lies where, read linearly from the image embeddings; only for training."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(HIDDEN, N_SHAPES + 1 + N_COLORS + 1 + N_GROUNDS)
        self.counts = nn.Linear(HIDDEN, N_SHAPES * (scenes.MAX_OBJECTS + 1))

    def loss(self, embeds: torch.Tensor, patches: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        parts = self.patches(embeds[:, 1:]).float().split([N_SHAPES + 1, N_COLORS + 1, N_GROUNDS], -1)
        # nine patches in ten show no object: they must not drown what is on the tenth
        weights = [torch.tensor([0.1] + [1.0] * n) for n in (N_SHAPES, N_COLORS)] + [None]
        total = sum(
            F.cross_entropy(part.flatten(0, 1), patches[..., k].flatten(), weight=weights[k])
            for k, part in enumerate(parts)
        )
        count = self.counts(embeds[:, 0]).float().view(-1, scenes.MAX_OBJECTS + 1)
        return total + F.cross_entropy(count, counts.flatten())


class PerImage:
    """Image embeddings (image, patch, hidden) that several questions share.

    Stands in for `encoder_hidden_states`: rows are `questions` per image, one image
    after the other, and keys and values are computed once per image.
    """

    def __init__(self, embeds: torch.Tensor, questions: int) -> None:
        self.embeds, self.questions = embeds, questions


class Masked:
    """States (row, token, hidden) of which some tokens are padding, with the mask for scores."""

    def __init__(self, states: torch.Tensor, mask: torch.Tensor) -> None:
        self.states, self.mask = states, mask


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(x.shape[0], -1, HEADS, HIDDEN // HEADS).transpose(1, 2)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    scores = query @ key.transpose(-1, -2) * (HIDDEN // HEADS) ** -0.5
    weights = (scores if mask is None else scores + mask).softmax(-1).to(value.dtype)
    return (weights @ value).transpose(1, 2).flatten(2)


def use_masked_attention() -> None:
    """Train on padded batches exactly: transformers' BLIP lets answers attend to padded questions.

    The same mathematics as transformers' eager attention, plus a mask that reaches
    the answer decoder's cross-attention, plus keys shared by the questions of an image.
    """
    from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention

    def text(
        self: Any, hidden_states: Any, attention_mask: Any = None, encoder_hidden_states: Any = None, **_: Any
    ) -> Any:
        states: Any = encoder_hidden_states
        mask, query = None, self.query(hidden_states)
        if isinstance(states, PerImage):
            states, query = states.embeds, query.view(len(states.embeds), -1, HIDDEN)
        elif isinstance(states, Masked):
            states, mask = states.states, states.mask
        elif states is None:
            states, mask = hidden_states, attention_mask
        out = attend(heads(query), heads(self.key(states)), heads(self.value(states)), mask)
        return out.view(hidden_states.shape), None

    BlipTextSelfAttention.forward = text  # type: ignore[method-assign, assignment, unused-ignore]


# --- data --------------------------------------------------------------------------


def easy_questions(split: str) -> list[tuple[str, str, int]]:
    import easy_vqa

    get = easy_vqa.get_train_questions if split == "train" else easy_vqa.get_test_questions
    return list(zip(*get(), strict=True))


def rarity(question: str, answer: str) -> float:
    """How much oftener than it stands in easy-VQA a question is asked after `--turn`.

    Seven in eight questions of whether a color is there have one answer, so a small
    model learns to give it without looking.
    """
    if answer not in ("yes", "no"):
        return 1.0
    denied = " no " in question or " not " in question
    there = (answer == "yes") != denied
    return (7.0 if " shape" in question else 2.0) if there else 1.0


def easy_images(split: str) -> np.ndarray:
    import easy_vqa

    paths = easy_vqa.get_train_image_paths() if split == "train" else easy_vqa.get_test_image_paths()
    return np.stack([np.asarray(Image.open(paths[i]).convert("RGB")) for i in range(len(paths))])


def describe(scene: scenes.Scene) -> tuple[np.ndarray, np.ndarray]:
    """Per patch (shape, color, ground), 0 where there is no object, and the count of each shape."""
    blocks = scene.owner.reshape(SIDE, PATCH, SIDE, PATCH).transpose(0, 2, 1, 3).reshape(SIDE * SIDE, -1)
    ground = scene.ground.reshape(SIDE, PATCH, SIDE, PATCH).transpose(0, 2, 1, 3).reshape(SIDE * SIDE, -1)
    cover = np.stack([(blocks == k).mean(1) for k in range(scenes.MAX_OBJECTS)])
    best = np.where(cover.max(0) >= 0.25, cover.argmax(0), -1)
    shape_of = np.array([0] + [1 + scenes.SHAPES.index(o.shape) for o in scene.objects])
    color_of = np.array([0] + [1 + list(scenes.COLORS).index(o.color) for o in scene.objects])
    common = np.stack([(ground == k).sum(1) for k in range(N_GROUNDS)]).argmax(0)
    counts = [sum(o.shape == shape for o in scene.objects) for shape in scenes.SHAPES]
    return np.stack([shape_of[best + 1], color_of[best + 1], common], -1).astype(np.int8), np.array(counts, np.int8)


def _pool_part(seed: int, start: int, stop: int) -> list[tuple[Any, ...]]:
    made = [scenes.scene(seed, i) for i in range(start, stop)]
    return [(s.pixels, *describe(s), len(s.objects), scenes.questions(s)) for s in made]


def scene_pool(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray, list[Any]]:
    """`count` scenes: pixels, patch labels, counts, number of objects, questions."""
    edges = list(range(0, count, 500)) + [count]
    with ProcessPoolExecutor() as workers:
        parts = workers.map(_pool_part, [seed] * (len(edges) - 1), edges[:-1], edges[1:])
        rows = [row for part in parts for row in part]
    pixels, patches, counts, number, asked = zip(*rows, strict=True)
    as_tensor = [torch.from_numpy(np.stack(x)) for x in (pixels, patches, counts)]
    return *as_tensor, np.array(number), list(asked)  # type: ignore[return-value]


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


class Batches:
    """The batch of any step, from (seed, step) alone."""

    def __init__(self, words: list[str], args: argparse.Namespace) -> None:
        self.ids = {word: i for i, word in enumerate(words)}
        self.seed, self.steps, self.look = args.seed, args.steps, args.look
        self.turn, self.sizes = args.turn, (args.scenes, args.easy)
        self.pixels, self.patches, self.counts, number, self.asked = scene_pool(TRAIN_SEED, args.pool)
        self.by_number = [np.flatnonzero(number == n) for n in range(1, scenes.MAX_OBJECTS + 1)]
        self.easy_pixels = torch.from_numpy(easy_images("train"))
        self.easy_asked: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for question, answer, image in easy_questions("train"):
            self.easy_asked[image].append((question, answer))

    def encode(self, question: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        tokens = ["[CLS]", *question.replace("?", " ?").split(), "[SEP]"]
        return tuple(self.ids[t] for t in tokens), tuple(self.ids[t] for t in ["[DEC]", *answer.split(), "[SEP]"])

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[Any], list[Any]]:
        """Pictures, patch labels, counts; the questions of the scenes, of the easy-VQA pictures."""
        rng = np.random.default_rng([self.seed, step])
        n_scenes, n_easy = self.sizes if step < self.turn else (self.sizes[0] // 2, self.sizes[1] + self.sizes[0] // 2)
        share = max(0, step - self.look) / (self.steps - self.look)
        if step < self.look:
            share = 1.0
        weights = np.array([4, 4, 0, 0] if share < 0.06 else [2, 3, 3, 0] if share < 0.15 else [2, 3, 4, 5]) * 1.0
        number = rng.choice(len(weights), n_scenes, p=weights / weights.sum())
        chosen = np.array([self.by_number[n][rng.integers(len(self.by_number[n]))] for n in number])
        easy = rng.integers(len(self.easy_pixels), size=n_easy)
        pixels = torch.cat([self.pixels[chosen], self.easy_pixels[easy]])
        patches = self.patches[chosen].long().view(-1, SIDE, SIDE, 3)
        flip = torch.from_numpy(rng.random(n_scenes) < 0.5)  # no question asks for left or right
        pixels[:n_scenes][flip] = pixels[:n_scenes][flip].flip(2)
        patches[flip] = patches[flip].flip(2)
        scene_asked = [self.encode(*pair) for scene in chosen for pair in self._pick(self.asked[scene], rng)]
        easy_asked = []
        for image in easy:
            asked = self.easy_asked[int(image)]
            weights = np.array([rarity(*pair) if step >= self.turn else 1.0 for pair in asked])
            for k in rng.choice(len(asked), QUESTIONS, p=weights / weights.sum()):
                easy_asked.append(self.encode(*asked[k]))
        return normalize(pixels), patches.flatten(1, 2), self.counts[chosen].long(), scene_asked, easy_asked

    @staticmethod
    def _pick(asked: list[scenes.SceneQuestion], rng: np.random.Generator) -> list[tuple[str, str]]:
        """Four questions, one of each type where there is one; numbers above one count four times."""
        picked = []
        for kind in scenes.QUESTION_TYPES:
            found = [q for q in asked if q.type == kind] or [q for q in asked if q.type == "number"]
            weight = np.array([4.0 if q.type == "number" and q.answer != "one" else 1.0 for q in found])
            q = found[rng.choice(len(found), p=weight / weight.sum())]
            picked.append((q.question, q.answer))
        return picked


# --- training and accuracy ---------------------------------------------------------


def pad(rows: list[tuple[int, ...]]) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + (0,) * (width - len(row)) for row in rows])


def read(model: Any, images: PerImage, ids: torch.Tensor) -> Masked:
    """The question states of every row, with the mask of their padding."""
    mask = torch.zeros(ids.shape).masked_fill(ids == 0, -1e4)[:, None, None, :]
    states = model.text_encoder(
        input_ids=ids, attention_mask=(ids != 0).long(), encoder_hidden_states=images
    ).last_hidden_state
    return Masked(states, mask)


def say(model: Any, states: Masked, ids: torch.Tensor) -> torch.Tensor:
    """Logits (row, position, word) of the answer decoder."""
    return model.text_decoder(input_ids=ids, encoder_hidden_states=states, use_cache=False).logits.float()


def question_loss(model: Any, images: PerImage, rows: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over rows of the answers' negative log-likelihood; which rows were right."""
    ids, target = (pad(list(part)) for part in zip(*rows, strict=True))
    logits = say(model, read(model, images, ids), target[:, :-1])
    goal = target[:, 1:]
    loss = F.cross_entropy(logits.flatten(0, 1), goal.flatten(), ignore_index=0, reduction="sum") / len(rows)
    return loss, ((logits.argmax(-1) == goal) | (goal == 0)).all(1)


@torch.no_grad()
def accuracy(
    model: Any, words: list[str], pixels: np.ndarray, asked: list[tuple[int, str, str, str]]
) -> dict[str, Any]:
    """Share of exactly right answers by type: {type: (accuracy, n)}.

    Teacher-forced and all tokens right up to [SEP]: the same rows as greedy decoding gets right.
    """
    encode = Batches.encode.__get__(argparse.Namespace(ids={w: i for i, w in enumerate(words)}))
    embeds = torch.cat([model.vision_model(normalize(x)).last_hidden_state for x in torch.tensor(pixels).split(200)])
    score: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(asked), 200):
        part = asked[start : start + 200]
        images = PerImage(embeds[[row[0] for row in part]], 1)
        _, right = question_loss(model, images, [encode(row[1], row[2]) for row in part])
        for row, ok in zip(part, right.tolist(), strict=True):
            score[row[3]].append(ok)
    return {kind: (round(float(np.mean(x)), 4), len(x)) for kind, x in sorted(score.items())}


def report(model: Any, words: list[str], n_scenes: int) -> dict[str, Any]:
    """Accuracy on data that training has not seen: scenes of another seed, easy-VQA's test split."""
    model.eval()
    made = [scenes.scene(TEST_SEED, i) for i in range(n_scenes)]
    asked = []
    for i, scene in enumerate(made):
        for q in scenes.questions(scene):
            kind = f"number {q.answer}" if q.type == "number" else q.type
            asked.append((i, q.question, q.answer, f"{kind}, {len(scene.objects)} objects"))
    fine = accuracy(model, words, np.stack([s.pixels for s in made]), asked)
    coarse: dict[str, list[Any]] = defaultdict(list)
    for name, (share, n) in fine.items():
        coarse[name.split(",")[0]].append((share, n))
    scene_table = {k: round(sum(s * n for s, n in v) / sum(n for _, n in v), 4) for k, v in coarse.items()}
    # "one" is four fifths of the number questions: the mean over the four answers is the honest figure
    scene_table["number"] = round(float(np.mean([scene_table[f"number {w}"] for w in scenes.NUMBERS])), 4)
    easy = [(i, q, a, "all") for q, a, i in easy_questions("test")]
    test = accuracy(model, words, easy_images("test"), easy)["all"]
    model.train()
    return {"scenes": scene_table, "scenes_by_objects": fine, "easy_vqa_test": test}


def train(args: argparse.Namespace) -> None:
    args.work.mkdir(parents=True, exist_ok=True)
    words = vocabulary()
    model, auxiliary = build_model(words, args.seed), Auxiliary()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(words)} words", flush=True)
    parameters = [*model.parameters(), *auxiliary.parameters()]
    decay: list[dict[str, Any]] = [{"params": [p for p in parameters if p.ndim > 1]},
             {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(decay, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    checkpoint, first = args.work / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        auxiliary.load_state_dict(saved["auxiliary"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
        print(f"goes on at step {first}", flush=True)
    batches = Batches(words, args)
    model.train()
    began = time.time()
    for step in range(first, args.steps):
        pixels, patches, counts, scene_asked, easy_asked = batches.at(step)
        n_scenes, n_easy = len(counts), len(pixels) - len(counts)
        if step < args.look:
            pixels = pixels[:n_scenes]
        warm, cool = min(1.0, (step + 1) / 300), 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * (0.02 + 0.98 * cool)
        with torch.autocast("cpu", torch.bfloat16):
            embeds = model.vision_model(pixels).last_hidden_state
            aux = auxiliary.loss(embeds[:n_scenes], patches, counts)
            parts = [
                question_loss(model, PerImage(embeds[: n_scenes], QUESTIONS), scene_asked),
                question_loss(model, PerImage(embeds[n_scenes :], QUESTIONS), easy_asked),
            ] if step >= args.look else [(torch.zeros(()), torch.zeros(1))] * 2  # fmt: skip
            loss = (n_scenes * parts[0][0] + n_easy * parts[1][0]) / (n_scenes + n_easy)
        optimizer.zero_grad()
        (loss + args.auxiliary * aux).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0:
            right = " ".join(f"{ok.float().mean():.3f}" for _, ok in parts)
            rate = (time.time() - began) / (step - first + 1)
            print(f"{step} loss {loss:.4f} aux {aux:.4f} right {right} {rate:.3f} s/step", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            state = {"model": model.state_dict(), "auxiliary": auxiliary.state_dict(),
                     "optimizer": optimizer.state_dict(), "step": step + 1}  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
        if ((step + 1) % 1000 == 0 and step >= args.look) or step + 1 == args.steps:
            table = report(model, words, 500)
            print(step + 1, json.dumps({k: table[k] for k in ("scenes", "easy_vqa_test")}), flush=True)


def export(args: argparse.Namespace) -> None:
    """Write the folder that ships (half precision on disk) and its accuracy table."""
    words = vocabulary()
    model = build_model(words, args.seed)
    saved = torch.load(args.work / "checkpoint.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    model.half().float()  # the table is of the weights as they ship
    table = report(model, words, 4000) | {"steps": saved["step"]}
    model.half().save_pretrained(args.export)
    config = json.loads((args.export / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (args.export / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    build_processor(words).save_pretrained(args.export)
    (args.export / "accuracy.json").write_text(json.dumps(table, indent=2) + "\n")
    export_scenes(args.export.parent / "scenes")
    print(json.dumps(table, indent=2))


def export_scenes(folder: Path) -> None:
    """A dozen scenes of a third seed with a question each, the four types in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    index = 0
    while len(rows) < 12:
        kind = scenes.QUESTION_TYPES[(len(rows) + 3) % 4]
        scene = scenes.scene(SAMPLE_SEED, index)
        found = [q for q in scenes.questions(scene) if q.type == kind and q.answer != "one"]
        index += 1
        if len(scene.objects) < 2 or not found:
            continue
        name = f"scene{len(rows):02d}.png"
        scene.image.save(folder / name, optimize=True)
        rows.append({"image": name, "question": found[0].question, "answer": found[0].answer, "type": kind})
    rows.insert(0, rows.pop(10))  # first, as one state of its question carries nearly the whole answer
    (folder / "scenes.json").write_text("[\n" + ",\n".join("  " + json.dumps(row) for row in rows) + "\n]\n")


def write_card(folder: Path) -> None:
    """The model card, from the accuracy table and from what nnblip itself measures on the folder."""
    import nnblip

    model = nnblip.BlipVQA(folder)
    effects, asked, right = [], 0, 0
    for index in range(200):
        scene = scenes.scene(TEST_SEED, index)
        for q in scenes.questions(scene):
            if q.type != "color":
                continue
            with torch.no_grad(), model.clean(scene.image, q.question) as clean:
                pass
            asked += 1
            if clean.answer != q.answer:
                continue
            right += 1
            for draw in range(3):
                with torch.no_grad(), model.corrupt(clean, nu=5.0, draw=draw) as run:
                    pass
                effects.append(clean.probability - run.probability)
    table = json.loads((folder / "accuracy.json").read_text())
    table["color_by_nnblip"] = {"right": right, "asked": asked}
    table["total_effect_nu_5_color"] = round(float(np.mean(effects)), 4)
    (folder / "accuracy.json").write_text(json.dumps(table, indent=2) + "\n")
    rows = "\n".join(f"| scenes, {name} | {share:.1%} |" for name, share in table["scenes"].items())
    by_objects: dict[str, list[str]] = defaultdict(list)
    for name, (share, n) in table["scenes_by_objects"].items():
        kind, objects = name.split(", ")
        by_objects[kind].append(f"{objects.removesuffix(' objects')}: {share:.1%} of {n}")
    detail = "\n".join(f"- {kind}: {'; '.join(parts)}" for kind, parts in by_objects.items())
    share, n = table["easy_vqa_test"]
    card = (Path(__file__).parent / "model_card.md").read_text()
    for name, text in {
        "PARAMETERS": f"{sum(p.numel() for p in model._module.parameters()):,}",
        "MEGABYTES": f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}",
        "STEPS": f"{table['steps']:,}",
        "ROWS": f"{rows}\n| easy-VQA, test split ({n:,} questions) | {share:.1%} |",
        "DETAIL": detail,
        "EFFECT": f"{table['total_effect_nu_5_color']:.2f}",
        "RIGHT": f"{right} of {asked}",
    }.items():
        card = card.replace("{" + name + "}", text)
    (folder / "README.md").write_text(card)
    print(card)
    draw_example(model, folder.parent / "example.png")


def draw_example(model: Any, path: Path) -> None:
    """The picture of the README: the summary that scripts/demo draws, as large as a page shows it."""
    import nnblip
    from nnblip.command.said import with_said
    from nnblip.command.trace import SCENE
    from nnblip.passes.settings import Settings

    example = nnblip.demo.examples()[SCENE]
    asked: dict[str, Any] = dict(nu=(0.3, 0.4, 0.5), draws=20, noise="shuffle", noise_at="patch_embeds")
    tree = with_said(model, example, Settings.of(**asked), nnblip.causal_trace(model, [example], **asked))
    looks = nnblip.attention(model, [example], ["question_encoder"], kinds=["crossattention"])
    figure = nnblip.plot.summary(tree, nnblip.pointing(model, [example]), looks, example.image, nu=0.5)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="folder of the checkpoint")
    parser.add_argument("--export", type=Path, help="write the model here instead of training")
    parser.add_argument("--card", type=Path, help="measure the model in this folder and write its card")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--look", type=int, default=3000, help="first steps, which train the image encoder alone")
    parser.add_argument("--turn", type=int, default=5000, help="from here on more of easy-VQA, and its rare answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=40_000, help="training scenes")
    parser.add_argument("--scenes", type=int, default=80, help="scenes in a step")
    parser.add_argument("--easy", type=int, default=24, help="easy-VQA pictures in a step")
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--auxiliary", type=float, default=0.5, help="weight of the auxiliary loss")
    args = parser.parse_args()
    if args.card:
        write_card(args.card)
        return
    use_masked_attention()
    if args.export:
        export(args)
    else:
        train(args)


if __name__ == "__main__":
    main()
