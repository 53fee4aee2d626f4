"""The names of a LoRA's tensors: kohya's, diffusers' old and new, PEFT's, each as network, target and parameter.

A target is the changed module's path in diffusers or transformers with _ for dots, as kohya writes it. That is the name of
the weight in a package, without _weight.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from converter.sources import component_kinds
from converter.sources.canonical import clip_name
from converter.sources.ldm.unet import ENDS, RESNET

UNET, TEXT_ENCODER, TEXT_ENCODER_2 = (
    kind.name for kind in (component_kinds.UNET, component_kinds.TEXT_ENCODER, component_kinds.TEXT_ENCODER_2)
)

#: Parameter -> the endings of its tensors' names: kohya's and LyCORIS', diffusers' before 0.22, PEFT's, which may have the
#: adapter's name.
_ENDINGS = {
    "down": r"(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)down\.weight|\.lora_A(?:\.[^.]+)?\.weight",
    "up": r"(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)up\.weight|\.lora_B(?:\.[^.]+)?\.weight",
    "up_bias": r"\.lora_B(?:\.[^.]+)?\.bias",
    "mid": r"\.lora_mid\.weight",
    "magnitude": r"\.lora_magnitude_vector(?:\.[^.]+)*",
    **{
        name: rf"\.{name}(?:\.[^.]+)?"
        for name in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        )
    },
    **{name: rf"\.{name}" for name in ("alpha", "dora_scale", "diff", "diff_b", "w_norm", "b_norm")},
}
#: Characters of a name that is read; published ones have a third of that.
_LONGEST = 400
# What all endings begin with is looked for first, since a file has thousands of names and each many places to end.
_NAME = re.compile(f"(.+?)(?=\\.|_lora\\.)(?:{'|'.join(f'(?P<{name}>{ending})' for name, ending in _ENDINGS.items())})")
_PREFIXES = {
    "lora_unet_": UNET,
    "lora_te1_": TEXT_ENCODER,
    "lora_te2_": TEXT_ENCODER_2,
    "lora_te_": TEXT_ENCODER,
    "unet.": UNET,
    "diffusion_model.": UNET,
    "text_encoder.": TEXT_ENCODER,
    "text_encoder_2.": TEXT_ENCODER_2,
    # What ComfyUI saves.
    "text_encoders.clip_l.transformer.": TEXT_ENCODER,
    "text_encoders.clip_h.transformer.": TEXT_ENCODER,
    "text_encoders.clip_g.transformer.": TEXT_ENCODER_2,
}
#: Prefixes before the others, or before the modules of a network that they do not tell.
_WRAPPERS = ("base_model.model.", "lycoris_")

_BLOCK = r"(?:down_blocks_\d|mid_block|up_blocks_\d)"
_TRANSFORMER = (
    r"(?:norm|proj_in|proj_out|transformer_blocks_\d+_"
    r"(?:norm[123]|attn[12]_to_(?:q|k|v|out_0)|ff_net_0_proj|ff_net_2))"
)
_TARGETS = {
    UNET: re.compile(
        rf"{_BLOCK}_attentions_\d_{_TRANSFORMER}"
        rf"|{_BLOCK}_resnets_\d_(?:{'|'.join(RESNET.values())})"
        rf"|{_BLOCK}_(?:downsamplers|upsamplers)_0_conv"
        rf"|{'|'.join(end.replace('.', '_') for end in ENDS.values())}"
    ),
    TEXT_ENCODER: re.compile(
        r"text_model_encoder_layers_\d+_(?:self_attn_(?:q|k|v|out)_proj|mlp_fc[12]|layer_norm[12])"
        r"|text_model_embeddings_(?:token|position)_embedding|text_model_final_layer_norm|text_projection"
    ),
}
_TARGETS[TEXT_ENCODER_2] = _TARGETS[TEXT_ENCODER]

#: The original UNet's names with _ for dots. All published UNets have two resnets and a resizer at each level.
_PER_LEVEL = 3
_LDM_ENDS = {old.replace(".", "_"): new.replace(".", "_") for old, new in ENDS.items()}
_LDM_RESNET = {old.replace(".", "_"): new for old, new in RESNET.items()}
_LDM_BLOCK = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d{1,2})_(?:(\d)_)?(.+)")


@dataclass(frozen=True)
class TensorName:
    """What a tensor of a LoRA is: a parameter of a network's target; ``module`` is the module's path as the file has it."""

    network: str
    target: str
    parameter: str
    module: str


def _from_ldm(module: str) -> str:
    """Return diffusers' name of a UNet's module that has an original one; another name unchanged."""
    if module in _LDM_ENDS:
        return _LDM_ENDS[module]
    match = _LDM_BLOCK.fullmatch(module)
    if match is None:
        return module
    side, number, part, rest = match[1], int(match[2]), match[3], match[4]
    if side == "middle_block":
        if part is not None:
            return module
        block, layer, part = "mid_block", number // 2, str(number % 2)
    else:
        level, layer = divmod(number - (side == "input_blocks"), _PER_LEVEL)
        block = f"{'down' if side == 'input_blocks' else 'up'}_blocks_{level}"
    if rest == "op":
        return f"{block}_downsamplers_0_conv"
    if rest == "conv":
        return f"{block}_upsamplers_0_conv"
    if part == "0":
        return f"{block}_resnets_{layer}_{_LDM_RESNET.get(rest, rest)}"
    return f"{block}_attentions_{layer}_{rest}"


def _network(module: str) -> tuple[str, str] | None:
    """Return a module's network, and its path there; None if it is none of ours."""
    for wrapper in _WRAPPERS:
        module = module.removeprefix(wrapper)
    for prefix, network in _PREFIXES.items():
        if module.startswith(prefix):
            return network, module.removeprefix(prefix)
    for network in (UNET, TEXT_ENCODER):
        if _TARGETS[network].fullmatch(_target(network, module)):
            return network, module
    return None


def _target(network: str, path: str) -> str:
    plain = path.replace(".processor.", ".")
    if network != UNET:
        return clip_name(plain).replace(".", "_")
    # Attention processors of old diffusers have the output's linear layer without its place in the list.
    plain = re.sub(r"([._])to_out$", r"\1to_out_0", plain)
    return _from_ldm(plain.replace(".", "_"))


def read_name(name: str) -> TensorName | None:
    """Return what a tensor is by its name; None if no LoRA of a supported kind and network has it."""
    match = _NAME.fullmatch(name) if len(name) <= _LONGEST else None
    found = _network(match[1]) if match else None
    if match is None or match.lastgroup is None or found is None:
        return None
    network, path = found
    target = _target(network, path)
    return TensorName(network, target, match.lastgroup, path) if _TARGETS[network].fullmatch(target) else None
