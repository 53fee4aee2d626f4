"""A textual inversion embedding for the bundled model: two vectors that stand for "large shaded yellow circle", a sun.

`python -m demo.train_embedding` writes demo/embeddings/shapes-sun.safetensors. The vectors are learned from text alone: with
them in place of the four words, the frozen text encoder shall say after the prompt's end what it says for the words. The UNet
reads little else (`demo.train_text`), so no image is needed.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from demo.captions import caption
from demo.networks import TEXT_WIDTH
from demo.progress import Averaged, Log, learning_rate, resume, save
from demo.scenes import Scene, Thing, random_scene
from demo.train import HERE
from demo.train_text import load_tokenizer, tokenize

NAME = "shapes-sun"
BATCH = 8
STEPS = 150
#: What the vectors stand for, wherever it is.
SUN = Thing("circle", "yellow", "center", "large", "shaded")
#: The words of it that the vectors replace, in every wording of captions.
PHRASE = re.compile(r"\b(?:large|big) (?:shaded|glossy) yellow circle\b")
#: The tokens whose vectors are trained: words of the vocabulary that no caption has.
PLACEHOLDERS = ("sun", "moon")


class Embedding(torch.nn.Module):
    """The vectors, which a text encoder reads for the placeholders from now on; at first those of the placeholders."""

    def __init__(self, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        table = encoder.get_input_embeddings()
        self.ids = tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in PLACEHOLDERS])
        self.vectors = torch.nn.Parameter(table.weight[self.ids].detach().clone())
        table.register_forward_hook(lambda _, inputs, output: self(inputs[0], output))

    def forward(self, ids: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return what is embedded of the token ids, with the vectors in their places."""
        for token, vector in zip(self.ids, self.vectors, strict=True):
            embedded = torch.where((ids == token)[..., None], vector, embedded)
        return embedded


def suns(rng: np.random.Generator) -> tuple[str, str]:
    """Return a caption of a scene with a large shaded yellow circle, and the same with the placeholders."""
    while True:
        scene = random_scene(rng)
        if scene.ground == SUN.color:
            continue
        first = replace(SUN, place=scene.things[0].place)
        words = caption(Scene((first, *scene.things[1:]), scene.ground, scene.pattern), rng)[0]
        return words, PHRASE.sub(" ".join(PLACEHOLDERS), words)


def train_embedding(folder: Path, model: Path, *, steps: int = STEPS, seed: int = 31) -> torch.Tensor:
    """Train the vectors, or resume their training, with the frozen text encoder of ``model``; return them averaged."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
    embedding = Embedding(encoder, tokenizer)
    optimizer = torch.optim.AdamW(embedding.parameters(), lr=1.0, weight_decay=0, betas=(0.9, 0.99))
    averaged = Averaged(embedding, 0.98)
    state = folder / "embedding.pt"
    start = resume(state, embedding, optimizer, averaged)
    log = Log(folder / "embedding.log.csv", ("step", "loss", "norm", "seconds"))
    rng = np.random.default_rng(seed + start)
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak=2e-2, warmup=10)
        averaged.decay = min(0.98, (step + 1) / (step + 10))
        pairs = [suns(rng) for _ in range(BATCH)]
        told, asked = (tokenize(tokenizer, [pair[i] for pair in pairs]) for i in (0, 1))
        with torch.no_grad():
            wanted = encoder(told).last_hidden_state
        # What is told is longer by two tokens, so all of its padding is padding in what is asked.
        after = (told == tokenizer.eos_token_id)[..., None]
        squared = (encoder(asked).last_hidden_state - wanted).square() * after
        loss = squared.sum() / after.sum() / TEXT_WIDTH
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        averaged.update(embedding)
        if step % 10 == 0:
            log.row(step, loss.item(), embedding.vectors.detach().norm(dim=1).mean().item())
        if (step + 1) % 25 == 0 or step + 1 == steps:
            save(state, step + 1, embedding, optimizer, averaged)
    return averaged.weights["vectors"]


def write_embedding(vectors: torch.Tensor, file: Path) -> None:
    """Write the vectors as A1111 does, in fp16."""
    file.parent.mkdir(exist_ok=True)
    save_file({"emb_params": vectors.half().contiguous()}, file)
    file.chmod(0o644)


def main() -> None:
    """Train the embedding and write its file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "run", help="checkpoints and logs (demo/run)")
    parser.add_argument("--model", type=Path, default=HERE / "model", help="the checkpoint it is for (demo/model)")
    parser.add_argument(
        "--out", type=Path, default=HERE / "embeddings" / f"{NAME}.safetensors", help="the file to write"
    )
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    write_embedding(train_embedding(args.run, args.model, steps=args.steps), args.out)


if __name__ == "__main__":
    main()
