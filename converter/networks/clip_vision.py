"""CLIP's vision tower (transformers' CLIPVisionModel; Radford et al. 2021), and the image encoder of IP-Adapters."""

from __future__ import annotations

import numpy as np

from converter.errors import CheckpointError
from converter.mil import FP16, Tensor
from converter.networks.clip_layer import clip_layer
from converter.networks.layers import FP16Array, Layers
from converter.sources.configs import COUNT, EPSILON, WHOLE, Config, Key, Table, read_config
from converter.sources.tensors import expect_shape

#: The keys of CLIPVisionConfig that are used, with their defaults.
_KEYS: Table = {
    "hidden_act": Key("only", "quick_gelu", accepted=("quick_gelu", "gelu")),
    "num_channels": Key("only", 3, accepted=(3,)),
    "hidden_size": Key("read", 768, WHOLE),
    "intermediate_size": Key("read", 3072, WHOLE),
    "num_hidden_layers": Key("read", 12, COUNT),
    "num_attention_heads": Key("read", 12, WHOLE),
    "patch_size": Key("read", 32, WHOLE),
    "image_size": Key("read", 224, WHOLE),
    "layer_norm_eps": Key("read", 1e-5, EPSILON),
}
#: The width of the space that images and texts are compared in, with CLIPConfig's and CLIPVisionConfig's default.
PROJECTION: Table = {"projection_dim": Key("read", 512, WHOLE)}


def vision_config(where: str, config: Config) -> Config:
    """Return a vision tower's configuration with defaults; raises CheckpointError that begins with ``where``."""
    vision = read_config(where, config, _KEYS)
    if vision["hidden_size"] % vision["num_attention_heads"]:
        raise CheckpointError(
            f"{where} has hidden_size = {vision['hidden_size']} for {vision['num_attention_heads']} "
            "num_attention_heads; a multiple is accepted"
        )
    return vision


def image_encoder_config(name: str, config: Config) -> Config:
    """Return the configuration of a CLIPVisionModelWithProjection with defaults; raises CheckpointError."""
    where = f"{name}/config.json"
    return vision_config(where, config) | read_config(where, config, PROJECTION)


def _patches(layers: Layers, pixels: Tensor, root: str, config: Config) -> Tensor:
    """Return CLIP's class token and the patches of ``pixels``, with position embeddings: [1, D, 1, 1 + patches]."""
    g = layers.graph
    channels, patch = config["hidden_size"], config["patch_size"]
    count = (config["image_size"] // patch) ** 2
    weight = layers.weight(f"{root}embeddings.patch_embedding.weight", (channels, 3, patch, patch))
    x = g.conv(pixels, weight, None, "patches", stride=patch)
    x = g.reshape(x, (1, channels, 1, count), "patches.row")
    token = layers.weight(f"{root}embeddings.class_embedding", (1, channels, 1, 1))
    x = g.concat([token, x], 3, "patches.all")
    path, shape = f"{root}embeddings.position_embedding.weight", (1, channels, 1, count + 1)
    expect_shape(layers.tensors, path, (count + 1, channels))

    def transposed() -> FP16Array:
        return np.ascontiguousarray(layers.tensors.array(path).T).astype(np.float16).reshape(shape)

    return g.add(x, g.weight(path, shape, FP16, transposed), "patches.placed")


def vision_tower(layers: Layers, name: str, root: str, config: Config, width: int) -> tuple[Tensor, Tensor]:
    """Return the image in CLIP's space, fp16 [1, ``width``, 1, 1], and the states before the last layer, [1, D, 1, 1 + patches].

    Declares the input ``name`` fp16 [1, 3, S, S], an image with CLIP's mean and deviation.
    """
    g = layers.graph
    side, count, epsilon = config["image_size"], config["num_hidden_layers"], float(config["layer_norm_eps"])
    x = _patches(layers, g.input(name, (1, 3, side, side), FP16), root, config)
    x = layers.layer_norm(x, f"{root}pre_layrnorm", epsilon)  # (sic) in every checkpoint
    states = x
    for index in range(count):
        states = x
        x = clip_layer(layers, x, f"{root}encoder.layers.{index}", config)
    token = layers.layer_norm(g.slice(x, 3, 0, 1, "class_token"), f"{root}post_layernorm", epsilon)
    return layers.linear(token, "visual_projection", width, bias=False), states


def image_encoder(layers: Layers, config: Config) -> None:
    """Write the image encoder (transformers' CLIPVisionModelWithProjection).

    pixel_values fp16 [1, 3, S, S] (S 224) -> image_embeds fp32 [1, E, 1, 1] and image_states fp32
    [1, D, 1, 1 + patches], the states before the last layer, which IP-Adapter Plus takes.
    """
    embeds, states = vision_tower(layers, "pixel_values", "vision_model.", config, config["projection_dim"])
    layers.graph.output(embeds, "image_embeds")
    layers.graph.output(states, "image_states")
