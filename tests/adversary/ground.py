"""The folder in which bad inputs are given: pictures, tables and models, each wrong in its own way."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from nnblip import demo

QUERY = "text_encoder.encoder.layer.0.attention.self.query.weight"


def make(folder: Path) -> None:
    """Fill an empty folder."""
    pictures(folder)
    tables(folder)
    collections(folder)
    for name, spoil in MODELS.items():
        shutil.copytree(demo.MODEL, folder / "models" / name, ignore=shutil.ignore_patterns("*.md", "accuracy.json"))
        spoil(folder / "models" / name)


# --- pictures -----------------------------------------------------------------------------


def pictures(folder: Path) -> None:
    shutil.copy(demo.HERE / "scenes" / "scene00.png", folder / "scene.png")
    shutil.copy(demo.HERE / "scenes" / "scene01.png", folder / "other.png")
    whole = (folder / "scene.png").read_bytes()
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("this is not a picture\n" * 50)
    (folder / "page.jpg").write_text("<html>please log in</html>")
    (folder / "vector.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "header.png").write_bytes(whole[:20])
    (folder / "flipped.png").write_bytes(whole[:60] + bytes(255 - byte for byte in whole[60:120]) + whole[120:])
    (folder / "folder.png").mkdir()
    picture = Image.new("RGB", (32, 32), "red")
    for form in ("eps", "pdf", "ico", "tga", "pcx", "jp2", "sgi"):
        picture.save(folder / f"picture.{form}")
        picture.save(folder / f"{form}.png", {"jp2": "JPEG2000"}.get(form, form.upper()))
    jpg = folder / "cut.jpg"
    Image.effect_noise((200, 200), 50).save(jpg)
    jpg.write_bytes(jpg.read_bytes()[:2000])
    Image.new("1", (9000, 9000)).save(folder / "large.png")
    Image.new("1", (20000, 20000)).save(folder / "bomb.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("gone.png")


# --- tables and data sets -----------------------------------------------------------------

GOOD = {"image": "scene.png", "question": "what is the color of the circle", "answer": "red"}


def table(path: Path, *rows: dict[str, str]) -> None:
    with path.open("w", newline="", encoding="utf8", errors="surrogateescape") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def tables(folder: Path) -> None:
    table(folder / "good.csv", GOOD)
    table(folder / "two.csv", GOOD, {**GOOD, "question": "how many circles are there", "answer": "two"})
    bad = {
        "missing": {"image": "none.png"},
        "outside": {"image": "../private.png"},
        "absolute": {"image": "/etc/hostname"},
        "long": {"image": "x" * 300},
        "unnamed": {"image": " "},
        "silent": {"question": ""},
        "unanswered": {"answer": " "},
        "bytes": {"question": "what \udcff is it"},
        "damaged": {"image": "cut.png"},
        "escape": {"image": "\x1b[31m.png"},
        "markup": {"image": "[/foo].png"},
    }
    for name, change in bad.items():
        table(folder / f"{name}.csv", {**GOOD, **change})
    table(folder / "twice.csv", {**GOOD, "id": "a"}, {**GOOD, "id": "a"})
    table(folder / "no_image.csv", {"question": "what", "photo": "scene.png"})
    table(folder / "no_question.csv", {"image": "scene.png", "text": "what"})
    (folder / "empty.csv").touch()
    (folder / "header.csv").write_text("image,question\n")
    (folder / "double.csv").write_text("image,question,a,a\nscene.png,what is it,1,2\n")
    (folder / "short.csv").write_text("image,question,answer\nscene.png,what is it\n")
    (folder / "quote.csv").write_text('image,question\nscene.png,"what is it\nscene.png,who is it\n')
    (folder / "binary.csv").write_bytes(bytes(range(256)) * 4)
    (folder / "table.xlsx").write_bytes(b"PK\x03\x04")
    (folder / "table.parquet").write_bytes(b"PAR1 and no more")
    (folder / "table").write_text("image,question\n")


def collections(folder: Path) -> None:
    (folder / "coco").mkdir()
    (folder / "cocoqa").mkdir()
    for name in ("questions", "answers", "img_ids", "types"):
        (folder / "cocoqa" / f"{name}.txt").write_text("0\n" * (3 if name == "types" else 2))
    (folder / "list.json").write_text("[]")
    (folder / "number.json").write_text("5")
    (folder / "object.json").write_text("{}")
    (folder / "cut.json").write_text('{"questions": [{"question_id": 1,')
    (folder / "deep.json").write_text('{"a": ' + "[" * 5000)
    (folder / "empty.json").touch()
    (folder / "color.csv").write_text(",image_id,question,answer\n0,71,what is it,red\n")
    (folder / "color_no_id.csv").write_text(",question,answer\n0,what is it,red\n")
    (folder / "palit.csv").write_text(",image_id,question,answer\n0,71,what is it,red\n")
    (folder / "clevr.csv").write_text(",Image_IDs,Questions_Answers\n0,CLEVR_val_000001,__import__('os')\n")


# --- models -------------------------------------------------------------------------------


def config(**changes):
    """Change entries of config.json; `text__x` is the entry x of `text_config`."""

    def spoil(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            part, _, key = name.rpartition("__")
            (found[f"{part}_config"] if part else found)[key] = value
        (folder / "config.json").write_text(json.dumps(found))

    return spoil


def written(name: str, content: str | bytes):
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def gone(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def weights(**changes):
    """Change weights by functions of what is there; without one it is removed."""

    def spoil(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        for name, change in changes.items():
            found[name] = change(found.get(name))
        save_file({k: v for k, v in found.items() if v is not None}, folder / "model.safetensors", {"format": "pt"})

    return spoil


def vocabulary(folder: Path) -> None:
    """A word more than the model has."""
    found = json.loads((folder / "tokenizer.json").read_text())
    found["model"]["vocab"]["xylophone"] = 64
    (folder / "tokenizer.json").write_text(json.dumps(found))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


MODELS = {
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
    "no_config": gone("config.json"),
    "config_list": written("config.json", "[]"),
    "config_number": written("config.json", "5"),
    "config_cut": written("config.json", "{"),
    "config_binary": written("config.json", b"\xff\xfe"),
    "config_deep": written("config.json", "[" * 10**5),
    "bert": config(model_type="bert"),
    "unknown_type": config(model_type="blip9"),
    "captioning": config(architectures=["BlipForConditionalGeneration"]),
    "no_architecture": config(architectures=None),
    "architecture_number": config(architectures=5),
    "architecture_and_layers": config(architectures="none", text__num_hidden_layers="six"),
    "layers_six": config(text__num_hidden_layers="six"),
    "fewer_layers": config(text__num_hidden_layers=4),
    "no_layers": config(text__num_hidden_layers=0),
    "more_layers": config(text__num_hidden_layers=7),
    "fewer_image_layers": config(vision__num_hidden_layers=1),
    "heads": config(text__num_attention_heads=7),
    "no_heads": config(text__num_attention_heads=0),
    "widths": config(vision__hidden_size=64),
    "activation": config(text__hidden_act="nope"),
    "patches": config(vision__patch_size=7),
    "positions": config(text__max_position_embeddings=16),
    "pixels": config(vision__image_size=32),
    "no_sep": config(text__sep_token_id=None),
    "other_sep": config(text__sep_token_id=4),
    "far_bos": config(text__bos_token_id=64),
    "dtype": config(dtype="float7"),
    "huge": config(text__vocab_size=10**12),
    "no_weights": gone("model.safetensors"),
    "pickled": pickled,
    "weights_cut": written("model.safetensors", b"0" * 100),
    "weight_missing": weights(**{QUERY: lambda _: None}),
    "weight_shape": weights(**{QUERY: lambda _: torch.zeros(3, 3)}),
    "weight_more": weights(more=lambda _: torch.zeros(2)),
    "weight_nan": weights(**{QUERY: lambda found: found * np.nan}),
    "weight_inf": weights(**{QUERY: lambda found: found.index_fill(0, torch.tensor([3]), np.inf)}),
    "weights_huge": weights(**{QUERY: lambda found: torch.full(found.shape, 1e38)}),
    "no_tokenizer": gone("tokenizer.json", "tokenizer_config.json"),
    "no_words": gone("tokenizer.json"),
    "tokenizer_cut": written("tokenizer.json", '{"version": "1.0"'),
    "tokenizer_empty": written("tokenizer.json", "{}"),
    "more_words": vocabulary,
    "no_processor": gone("processor_config.json"),
    "processor_list": written("processor_config.json", "[]"),
}
