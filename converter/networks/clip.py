"""The CLIP text encoder (transformers' CLIPTextModel; Radford et al. 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.mil import FP16, FP32, INT32, Graph, Tensor
from converter.networks.attention import Projections, split_einsum
from converter.networks.layers import Layers
from converter.tensors import Tensors

#: Below any logit, and no infinity: the Neural Engine's softmax does not survive one. exp(-4e4) is 0 in fp16.
_HIDDEN = -4e4


def _activation(layers: Layers, x: Tensor, kind: str, name: str) -> Tensor:
    g = layers.graph
    if kind == "quick_gelu":
        return g.mul(x, g.unary("sigmoid", g.mul(x, 1.702, f"{name}.scaled"), f"{name}.gate"), name)
    return g.gelu(x, name)


def text_encoder(graph: Graph, tensors: Tensors, config: dict[str, Any]) -> None:
    """input_ids fp32 [1, T] -> last_hidden_state fp32 [1, T, D], pooled_outputs fp32 [1, D].

    Ids come as floats because Core ML takes integer inputs off the Neural Engine; they are exact below 2**24.
    """
    layers, g = Layers(graph, tensors), graph
    root = "text_model." if "text_model.final_layer_norm.weight" in tensors else ""
    tokens, width = int(config["max_position_embeddings"]), int(config["hidden_size"])
    epsilon = float(config.get("layer_norm_eps", 1e-5))
    ids = g.cast(g.input("input_ids", (1, tokens), FP32), INT32, "ids")
    words = g.gather(layers.weight(f"{root}embeddings.token_embedding.weight"), ids, "words")
    places = layers.weight(f"{root}embeddings.position_embedding.weight", (1, tokens, width))
    x = g.transpose(g.add(words, places, "embedded"), (0, 2, 1), "embedded.turned")
    x = g.expand_dims(x, [2], "embedded.channels")

    def causal() -> Any:
        key, query = np.mgrid[:tokens, :tokens]
        return np.where(key > query, _HIDDEN, 0).astype(np.float16).reshape(1, tokens, 1, tokens)

    mask = g.weight("causal_mask", (1, tokens, 1, tokens), FP16, causal)
    for index in range(int(config["num_hidden_layers"])):
        path = f"{root}encoder.layers.{index}"
        names = Projections(*(f"{path}.self_attn.{p}_proj" for p in ("q", "k", "v", "out")))
        h = layers.layer_norm(x, f"{path}.layer_norm1", epsilon)
        heads = int(config["num_attention_heads"])
        x = g.add(x, split_einsum(layers, h, h, names, f"{path}.self_attn", heads, mask), f"{path}.1")
        h = layers.linear(layers.layer_norm(x, f"{path}.layer_norm2", epsilon), f"{path}.mlp.fc1")
        h = _activation(layers, h, str(config.get("hidden_act", "quick_gelu")), f"{path}.mlp.act")
        x = g.add(x, layers.linear(h, f"{path}.mlp.fc2"), f"{path}.2")
    x = layers.layer_norm(x, f"{root}final_layer_norm", epsilon)
    states = g.transpose(g.reshape(x, (1, width, tokens), "states.flat"), (0, 2, 1), "states")
    end = int(config.get("eos_token_id", 2))
    # Checkpoints from before 2023 say 2 there, and mean the greatest id (transformers, CLIPTextTransformer.forward).
    last = ids if end == 2 else g.cast(g.equal(ids, end, "is_end"), INT32, "is_end.number")
    row = g.reduce_argmax(last, -1, "end")
    first = g.constant("first_picture", np.zeros(1, np.int32))
    pooled = g.gather_nd(states, g.stack([first, row], 1, "end.index"), "pooled")
    g.output(states, "last_hidden_state")
    g.output(pooled, "pooled_outputs")
