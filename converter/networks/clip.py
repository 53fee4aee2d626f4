"""CLIP's text encoders (transformers' CLIPTextModel and CLIPTextModelWithProjection; Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from converter.errors import CheckpointError
from converter.mil import FP16, FP32, INT32, Tensor
from converter.networks.clip_layer import clip_layer
from converter.networks.features import skipping
from converter.networks.layers import Layers
from converter.sources.config_tables import TEXT_ENCODER
from converter.sources.configs import Config, is_projected, read_config

#: Below any logit but finite, since the Neural Engine's softmax fails on infinities. exp(-4e4) is 0 in fp16.
_HIDDEN = -4e4


def text_encoder_config(name: str, config: Config) -> Config:
    """Return a text encoder's configuration with defaults; raises CheckpointError unless it is a CLIP text encoder's."""
    where = f"{name}/config.json"
    config = read_config(where, config, TEXT_ENCODER)
    if config["hidden_size"] % config["num_attention_heads"]:
        raise CheckpointError(
            f"{where} has num_attention_heads = {config['num_attention_heads']}, which does not divide hidden_size = "
            f"{config['hidden_size']}"
        )
    if config["eos_token_id"] >= config["vocab_size"]:
        raise CheckpointError(
            f"{where} has eos_token_id = {config['eos_token_id']} in a vocabulary of {config['vocab_size']}"
        )
    return config


def _pooled(layers: Layers, ids: Tensor, states: Tensor, config: dict[str, Any]) -> Tensor:
    """Return the state at the prompt's end, [1, D]."""
    g = layers.graph
    end = config["eos_token_id"]
    if end == 2:
        # Checkpoints from before 2023 have 2 there but mean the greatest id (transformers, CLIPTextTransformer.forward)
        # of their own vocabulary: ids beyond it are textual inversions, which a merge adds.
        own = g.cast(g.less(ids, config["vocab_size"], "is_own"), INT32, "is_own.number")
        last = g.mul(ids, own, "own_ids")
    else:
        last = g.cast(g.equal(ids, end, "is_end"), INT32, "is_end.number")
    row = g.reduce_argmax(last, -1, "end")
    first = g.constant("first_picture", np.zeros(1, np.int32))
    return g.gather_nd(states, g.stack([first, row], 1, "end.index"), "pooled")


def _projected(layers: Layers, pooled: Tensor, width: int) -> Tensor:
    g = layers.graph
    column = g.expand_dims(pooled, [2, 3], "pooled.channels")
    return g.reshape(layers.linear(column, "text_projection", width, bias=False), (1, width), "projected")


def text_encoder(layers: Layers, config: dict[str, Any], *, penultimate: bool = False, clip_skip: int = 1) -> None:
    """Write a text encoder: input_ids fp32 [1, T] -> last_hidden_state fp32 [1, T, D], pooled_outputs fp32 [1, D].

    With ``penultimate`` (SDXL) the states are those before the last layer, without its norm, under the name
    hidden_embeds; many SDXL files lack the first encoder's last layer, which nothing else uses, and then the encoder
    has no pooled_outputs. With a ``clip_skip`` above 1 the states without the last layers are further outputs, for 2 up to
    ``clip_skip`` (at most num_hidden_layers): those after one layer less each time, with the final norm where
    last_hidden_state has it (diffusers' clip_skip + 1, A1111's CLIP_stop_at_last_layers). pooled_outputs of a
    CLIPTextModelWithProjection are projected. Ids are floats because Core ML moves integer inputs off the Neural Engine;
    they are exact below 2**24.
    """
    g, root, width = layers.graph, "text_model.", config["hidden_size"]
    tokens, count, epsilon = config["max_position_embeddings"], config["num_hidden_layers"], config["layer_norm_eps"]
    ids = g.cast(g.input("input_ids", (1, tokens), FP32), INT32, "ids")
    words = g.gather(
        layers.weight(f"{root}embeddings.token_embedding.weight", (config["vocab_size"], width)), ids, "words"
    )
    positions = layers.weight(f"{root}embeddings.position_embedding.weight", (1, tokens, width))
    x = g.transpose(g.add(words, positions, "embedded"), (0, 2, 1), "embedded.turned")
    x = g.expand_dims(x, [2], "embedded.channels")

    def causal() -> Any:
        key, query = np.mgrid[:tokens, :tokens]
        return np.where(key > query, _HIDDEN, 0).astype(np.float16).reshape(1, tokens, 1, tokens)

    def rows(x: Tensor, name: str) -> Tensor:
        return g.transpose(g.reshape(x, (1, width, tokens), f"{name}.flat"), (0, 2, 1), name)

    def layer(x: Tensor, index: int) -> Tensor:
        return clip_layer(layers, x, f"{root}encoder.layers.{index}", config, mask)

    mask = g.weight("causal_mask", (1, tokens, 1, tokens), FP16, causal)
    after = [x]  # the states after so many layers
    for index in range(count - 1):
        after.append(layer(after[-1], index))
    for skip in range(clip_skip, 1, -1):
        if penultimate:
            g.output(rows(after[count - skip], f"skipped_{skip}"), skipping("hidden_embeds", skip))
        else:
            normed = layers.layer_norm(after[count + 1 - skip], f"{root}final_layer_norm", epsilon)
            g.output(rows(normed, f"skipped_{skip}"), skipping("last_hidden_state", skip))
    x = after[-1]
    if penultimate:
        g.output(rows(x, "penultimate"), "hidden_embeds")
        if lacks_last_layer(config, layers.has):
            return
    states = rows(layers.layer_norm(layer(x, count - 1), f"{root}final_layer_norm", epsilon), "states")
    pooled = _pooled(layers, ids, states, config)
    if is_projected(config):
        pooled = _projected(layers, pooled, config["projection_dim"])
    if not penultimate:
        g.output(states, "last_hidden_state")
    g.output(pooled, "pooled_outputs")


def lacks_last_layer(config: dict[str, Any], has: Callable[[str], bool]) -> bool:
    """Return whether a text encoder's file lacks the last layer and norm; such an encoder has no pooled states."""
    names = (f"encoder.layers.{config['num_hidden_layers'] - 1}.layer_norm1.weight", "final_layer_norm.weight")
    return not is_projected(config) and not any(has(f"text_model.{name}") for name in names)
