"""Stage 2: the text encoder learns the meaning of captions, without images.

From scratch, a UNet spends most of a short training on the meaning of its text states. Here the encoder learns first: in
the states after the caption's end, linear heads read the first thing (positions 0 mod 3), the second (1 mod 3) and the
ground (2 mod 3). Then the encoder is frozen, the heads are discarded, and the UNet's cross attention has distinct states to
attend to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

from demo.captions import caption
from demo.networks import TEXT_WIDTH, TOKENS, make_text_encoder
from demo.progress import Averaged, Log, learning_rate, resume, save
from demo.scenes import COLORS, PATTERNS, PLACES, SHAPES, SIZES, STYLES, Scene, random_scene

STEPS = 1200
BATCH = 64
_THING = (SHAPES, tuple(COLORS), tuple(PLACES), SIZES, STYLES)
_GROUND = (tuple(COLORS), PATTERNS)


def labels(scene: Scene | None) -> list[int]:
    """Return the class numbers of both things and the ground; 0 means absent."""
    numbers: list[int] = []
    things = scene.things if scene else ()
    for index in range(2):
        if index < len(things):
            t = things[index]
            words = (t.shape, t.color, t.place, t.size, t.style)
            numbers += [names.index(w) + 1 for names, w in zip(_THING, words, strict=True)]
        else:
            numbers += [0] * len(_THING)
    if scene:
        return [*numbers, _GROUND[0].index(scene.ground) + 1, _GROUND[1].index(scene.pattern) + 1]
    return [*numbers, 0, 0]


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load the vocabulary that `demo.captions.write_tokenizer` wrote."""
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return token ids, int64 [len(texts), 77]."""
    return tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids


class Heads(torch.nn.Module):
    """Linear readers of the states, one for each label."""

    def __init__(self) -> None:
        super().__init__()
        thing, ground = [len(n) + 1 for n in _THING], [len(n) + 1 for n in _GROUND]
        self.slots = [0] * 5 + [1] * 5 + [2] * 2
        self.readers = torch.nn.ModuleList(torch.nn.Linear(TEXT_WIDTH, n) for n in [*thing, *thing, *ground])

    def forward(self, states: torch.Tensor, after: torch.Tensor) -> list[torch.Tensor]:
        """Return each label's mean log-probabilities [batch, classes] over its slot's positions after the caption's end."""
        place = torch.arange(states.shape[1]) % 3
        scores_by_label = []
        for slot, reader in zip(self.slots, self.readers, strict=True):
            mask = (after & (place == slot)).float()[..., None]
            scores = reader(states).log_softmax(-1)
            scores_by_label.append((scores * mask).sum(1) / mask.sum(1))
        return scores_by_label


def train_text(folder: Path, *, steps: int = STEPS, seed: int = 2) -> None:
    """Train the text encoder on captions alone, or resume its training."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(folder / "tokenizer")
    encoder = make_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    model = torch.nn.ModuleDict({"encoder": encoder, "heads": Heads()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01, betas=(0.9, 0.98))
    averaged = Averaged(model, 0.99)
    state = folder / "text.pt"
    start = resume(state, model, optimizer, averaged)
    log = Log(folder / "text.log.csv", ("step", "loss", "accuracy", "worst", "seconds"))
    rng = np.random.default_rng(seed + start)
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak=1.5e-3, warmup=100)
        texts, targets = [], []
        for _ in range(BATCH):
            if rng.random() < 0.04:
                texts.append("")
                targets.append(labels(None))
                continue
            text, scene = caption(random_scene(rng), rng)
            texts.append(text)
            targets.append(labels(scene))
        ids = tokenize(tokenizer, texts)
        target = torch.tensor(targets)
        after = ids == tokenizer.eos_token_id
        scores = model["heads"](encoder(ids).last_hidden_state, after)
        loss = sum(F.nll_loss(s, target[:, i]) for i, s in enumerate(scores))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        averaged.update(model)
        if step % 50 == 0:
            right = torch.stack([(s.argmax(-1) == target[:, i]).float().mean() for i, s in enumerate(scores)])
            log.row(step, loss.item(), right.mean().item(), right.min().item())
    save(state, steps, model, optimizer, averaged)
