"""Tables of the keys of checkpoints' configurations: which are read, which must have one value, which do not matter.

The keys and their defaults are those of diffusers' and transformers' constructors. A key that neither library reads has
no effect there or here; a key that a library reads and the converter does not is refused by name unless its value means
what the converter does. docs/configurations.md is made from these tables.
"""

from __future__ import annotations

from typing import Any

from converter.sources.configs import (
    ANYTHING,
    BETAS,
    COUNT,
    COUNTS,
    DEPTHS,
    DEPTHS_OR_NONE,
    EPSILON,
    FLAG,
    GUIDANCE_OR_NONE,
    INDEX,
    NAMES,
    NUMBER,
    PER_LEVEL,
    POSITIVE,
    PROMPTS_OR_NONE,
    REQUIRED,
    SIDE,
    STEPS_OR_NONE,
    TEXT_OR_NONE,
    WHOLE,
    WHOLE_OR_NONE,
    WIDTHS,
    Config,
    Key,
    Kind,
    Table,
    listed,
)


def _read(default: Any, kind: Kind, why: str = "") -> Key:
    return Key("read", default, kind, why=why)


def _only(default: Any, *accepted: Any, why: str = "") -> Key:
    return Key("only", default, accepted=(default, *accepted) if default is not REQUIRED else accepted, why=why)


def _ignored(default: Any, why: str) -> Key:
    return Key("ignored", default, why=why)


_TRAINING = "matters in training only"
_SAMPLING = "each request chooses how to sample"
_NO_ADDED_HEADS = "belongs to kinds of conditions that are refused"
_LIBRARY = "is the library's own bookkeeping"

_BLOCKS = {
    "in_channels": _read(4, WHOLE),
    "flip_sin_to_cos": _read(True, FLAG),
    "freq_shift": _read(0, NUMBER),
    "down_block_types": _read(REQUIRED, NAMES),
    "mid_block_type": _only("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
    "only_cross_attention": _only(False),
    "block_out_channels": _read(REQUIRED, WIDTHS),
    "layers_per_block": _read(2, COUNTS),
    "downsample_padding": _only(1),
    "mid_block_scale_factor": _only(1),
    "act_fn": _only("silu", "swish"),
    "norm_num_groups": _read(32, WHOLE),
    "norm_eps": _read(1e-5, EPSILON),
    "cross_attention_dim": _read(1280, PER_LEVEL),
    "transformer_layers_per_block": _read(1, DEPTHS),
    "encoder_hid_dim": _only(None),
    "encoder_hid_dim_type": _only(None),
    "attention_head_dim": _read(8, PER_LEVEL),
    "num_attention_heads": _only(None),
    "use_linear_projection": _read(False, FLAG),
    "class_embed_type": _only(None),
    "addition_embed_type": _only(None, "text_time"),
    "addition_time_embed_dim": _read(None, WHOLE_OR_NONE),
    "num_class_embeds": _only(None),
    "upcast_attention": _ignored(False, "queries are scaled before the product, so scores stay in fp16's range"),
    "resnet_time_scale_shift": _only("default"),
    "projection_class_embeddings_input_dim": _read(None, WHOLE_OR_NONE),
    "addition_embed_type_num_heads": _ignored(64, _NO_ADDED_HEADS),
}
UNET: Table = {
    **_BLOCKS,
    "sample_size": _read(None, SIDE),
    "out_channels": _read(4, WHOLE),
    "center_input_sample": _only(False),
    "up_block_types": _read(REQUIRED, NAMES),
    "dropout": _ignored(0.0, _TRAINING),
    "reverse_transformer_layers_per_block": _read(None, DEPTHS_OR_NONE),
    "dual_cross_attention": _only(False),
    "resnet_skip_time_act": _only(False),
    "resnet_out_scale_factor": _only(1.0),
    "time_embedding_type": _only("positional"),
    "time_embedding_dim": _only(None),
    "time_embedding_act_fn": _only(None),
    "timestep_post_act": _only(None),
    "time_cond_proj_dim": _read(None, WHOLE_OR_NONE),
    "conv_in_kernel": _only(3),
    "conv_out_kernel": _only(3),
    "attention_type": _only("default"),
    "class_embeddings_concat": _only(False),
    "mid_block_only_cross_attention": _only(None, False),
    "cross_attention_norm": _only(None),
}
CONTROLNET: Table = {
    **_BLOCKS,
    "conditioning_channels": _only(3),
    "controlnet_conditioning_channel_order": _only("rgb"),
    "conditioning_embedding_out_channels": _read((16, 32, 96, 256), WIDTHS),
    "global_pool_conditions": _only(False),
}
VAE: Table = {
    "in_channels": _only(3),
    "out_channels": _only(3),
    "down_block_types": _read(REQUIRED, NAMES),
    "up_block_types": _read(REQUIRED, NAMES),
    "block_out_channels": _read(REQUIRED, WIDTHS),
    "layers_per_block": _read(1, COUNT),
    "act_fn": _only("silu", "swish"),
    "latent_channels": _read(4, WHOLE),
    "norm_num_groups": _read(32, WHOLE),
    "sample_size": _ignored(32, "is the size of the tiles into which diffusers may cut large images"),
    "scaling_factor": _read(0.18215, POSITIVE),
    "shift_factor": _only(None, 0.0, why="latents are scaled here, not shifted"),
    "latents_mean": _only(None, why="latents are scaled by one factor here, not by their own means and deviations"),
    "latents_std": _only(None, why="latents are scaled by one factor here, not by their own means and deviations"),
    "force_upcast": _read(True, FLAG),
    "use_quant_conv": _read(True, FLAG),
    "use_post_quant_conv": _read(True, FLAG),
    "mid_block_add_attention": _read(True, FLAG),
}
TEXT_ENCODER: Table = {
    "architectures": _only(["CLIPTextModel"], ["CLIPTextModelWithProjection"], None),
    "model_type": _only("clip_text_model"),
    "vocab_size": _read(49408, WHOLE),
    "hidden_size": _read(512, WHOLE),
    "intermediate_size": _read(2048, WHOLE),
    "projection_dim": _read(512, WHOLE),
    "num_hidden_layers": _read(12, COUNT),
    "num_attention_heads": _read(8, WHOLE),
    "max_position_embeddings": _read(77, WHOLE),
    "hidden_act": _only("quick_gelu", "gelu"),
    "layer_norm_eps": _read(1e-5, EPSILON),
    "eos_token_id": _read(49407, INDEX),
    "use_attention_mask": _only(False, None, why="attention includes every token, padding too"),
    "attention_dropout": _ignored(0.0, _TRAINING),
    "dropout": _ignored(0.0, _TRAINING),
    "initializer_range": _ignored(0.02, _TRAINING),
    "initializer_factor": _ignored(1.0, _TRAINING),
    "pad_token_id": _ignored(1, "the tokenizer's own padding is used"),
    "bos_token_id": _ignored(49406, "the tokenizer's own begin is used"),
    "text_config": _only(None, why="a whole CLIPModel is not a text encoder"),
    "transformers_version": _ignored(None, _LIBRARY),
    "torch_dtype": _ignored(None, _LIBRARY),
    "dtype": _ignored(None, _LIBRARY),
    "output_hidden_states": _ignored(False, _LIBRARY),
    "output_attentions": _ignored(False, _LIBRARY),
    "return_dict": _ignored(True, _LIBRARY),
    "chunk_size_feed_forward": _ignored(0, "changes how much is computed at once, not the result"),
    "is_encoder_decoder": _only(False),
    "id2label": _ignored(None, _LIBRARY),
    "label2id": _ignored(None, _LIBRARY),
    "problem_type": _ignored(None, _LIBRARY),
}
TOKENIZER: Table = {
    "tokenizer_class": _only("CLIPTokenizer", "CLIPTokenizerFast", None),
    "pad_token": _read("<|endoftext|>", ANYTHING),
    "bos_token": _read("<|startoftext|>", ANYTHING),
    "eos_token": _read("<|endoftext|>", ANYTHING),
    "unk_token": _ignored("<|endoftext|>", "byte-level BPE encodes every text"),
    "do_lower_case": _only(True, why="prompts are read in lower case"),
    "add_prefix_space": _only(False, None),
    "errors": _ignored("replace", "is for turning tokens back into text"),
    "model_max_length": _read(77, ANYTHING),
    "added_tokens_decoder": _read(None, ANYTHING),
    "additional_special_tokens": _read(None, ANYTHING),
    "extra_special_tokens": _read(None, ANYTHING),
    "clean_up_tokenization_spaces": _ignored(None, "is for turning tokens back into text"),
    "padding_side": _only("right", None),
    "truncation_side": _ignored("right", "a long prompt is cut at its end or encoded in chunks, as the request says"),
    "name_or_path": _ignored(None, _LIBRARY),
    "special_tokens_map_file": _ignored(None, _LIBRARY),
    "tokenizer_file": _ignored(None, _LIBRARY),
    "backend": _ignored(None, _LIBRARY),
    "is_local": _ignored(None, _LIBRARY),
    "local_files_only": _ignored(None, _LIBRARY),
}
_NOISE = {
    "num_train_timesteps": _read(1000, WHOLE),
    "beta_start": _read(0.0001, POSITIVE),
    "beta_end": _read(0.02, POSITIVE),
    "beta_schedule": _only("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"),
    "trained_betas": _read(None, BETAS),
    "prediction_type": _only("epsilon", "v_prediction", "sample"),
    "timestep_spacing": _only("linspace", "leading", "trailing"),
    "steps_offset": _read(0, INDEX),
    "set_alpha_to_one": _read(True, FLAG),
    "rescale_betas_zero_snr": _read(False, FLAG),
    "use_flow_sigmas": _only(False, why="models trained by flow matching are not supported"),
    "timestep_type": _only("discrete", why="EDM models are not supported"),
    "thresholding": _only(False, why="latents are not clipped"),
    "use_dynamic_shifting": _only(False),
    "shift_terminal": _only(None),
    "sigma_min": _only(None),
    "sigma_max": _only(None),
    "original_inference_steps": _only(50),
    "timestep_scaling": _only(10.0),
    "clip_sample": _ignored(False, "latents are not clipped; diffusers' pipelines for Stable Diffusion turn it off"),
}
#: Keys of the schedulers' sampling, which diffusers reads and the converter does not: key -> default if another value
#: changes images and all classes have the same default, else None.
_SAMPLING_KEYS: Config = {
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False),
    "final_sigmas_type": "zero",
    "interpolation_type": "linear",
    **dict.fromkeys(("solver_order", "algorithm_type", "solver_type", "solver_p", "lower_order_final")),
    **dict.fromkeys(("euler_at_final", "predict_x0", "disable_corrector", "predictor_order", "corrector_order")),
    **dict.fromkeys(("dynamic_thresholding_ratio", "clip_sample_range", "sample_max_value", "variance_type")),
    **dict.fromkeys(("skip_prk_steps", "lambda_min_clipped", "flow_shift", "time_shift_type", "tau_func")),
    "noise_sampler_seed": None,
}
SCHEDULER: Table = {
    **_NOISE,
    **{
        name: Key("ignored", default, why=_SAMPLING, reported=default is not None)
        for name, default in _SAMPLING_KEYS.items()
    },
}
_LEADING = {"timestep_spacing": "leading"}
_WIDER: Config = {"beta_start": 0.00085, "beta_end": 0.012}
_OF_LCM = _LEADING | _WIDER | {"beta_schedule": "scaled_linear"}
#: diffusers' schedulers whose noise SCHEDULER describes -> the defaults that differ from SCHEDULER's.
#: All others (EDM, flow matching, consistency models, ...) train and sample in other ways.
SCHEDULER_CLASSES: dict[str, Config] = {
    **{f"DDIM{kind}Scheduler": _LEADING for kind in ("", "Parallel")},
    **{f"DDPM{kind}Scheduler": _LEADING for kind in ("", "Parallel")},
    "PNDMScheduler": _LEADING | {"set_alpha_to_one": False},
    **{f"{kind}Scheduler": _OF_LCM for kind in ("LCM", "TCD")},
    **{
        f"{kind}Scheduler": _WIDER
        for kind in ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE")
    },
    **{f"{kind}Scheduler": {} for kind in ("EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete", "SASolver")},
    **{
        f"{kind}Scheduler": {}
        for kind in ("DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep")
    },
}


#: Keys of anemone-defaults.json: the settings that a checkpoint's makers recommend.
DEFAULTS: Table = {
    "steps": _read(None, STEPS_OR_NONE),
    "guidance_scale": _read(None, GUIDANCE_OR_NONE),
    "scheduler": _read(None, TEXT_OR_NONE),
    "most_clip_skip": _read(None, WHOLE_OR_NONE, "a conversion without --clip-skip makes clip skips up to it possible"),
    "prompts": _read(None, PROMPTS_OR_NONE, "of what the model is for: anemone analyze measures on images of these"),
}
#: The accepted prediction types.
PREDICTION_TYPES: tuple[str, ...] = SCHEDULER["prediction_type"].accepted

_TABLES: dict[str, Table] = {
    "scheduler/scheduler_config.json": SCHEDULER,
    "unet/config.json": UNET,
    "vae/config.json": VAE,
    "text_encoder/config.json, text_encoder_2/config.json": TEXT_ENCODER,
    "tokenizer/tokenizer_config.json, tokenizer_2/tokenizer_config.json": TOKENIZER,
    "a ControlNet's config.json (keys that the UNet's does not have)": {
        name: key for name, key in CONTROLNET.items() if name not in UNET
    },
    "anemone-defaults.json (beside model_index.json; what the checkpoint's makers recommend)": DEFAULTS,
}


def usual_spacing(scheduler: str) -> str:
    """Return the timestep_spacing that diffusers' class of this name has by default."""
    return str(SCHEDULER_CLASSES.get(scheduler, {}).get("timestep_spacing", SCHEDULER["timestep_spacing"].default))


_ABOUT = """\
# Configurations

How the converter treats every key of a checkpoint's configurations that diffusers and transformers read. A missing key
has its library's default; a scheduler's defaults are those of its class, and without a timestep_spacing each scheduler of a
request has that of its own class. A value that is not accepted is refused by name
before anything is written. This page is made by `python -m converter.sources.config_tables`.

Accepted schedulers, which say how a model was trained: {schedulers}. Models of other schedulers (EDM, flow matching,
consistency models) are refused, since they are sampled in another way.
"""


def _treatment(key: Key) -> str:
    why = f" ({key.why})" if key.why else ""
    if key.treatment == "read":
        return ("used" if key.kind is ANYTHING else f"used: {key.kind.words}") + why
    if key.treatment == "only":
        return f"accepted: {listed(key.accepted)}{why}"
    return f"does not matter: {key.why}"


def as_markdown() -> str:
    """Return the content of docs/configurations.md."""
    parts = [_ABOUT.format(schedulers=", ".join(name.removesuffix("Scheduler") for name in SCHEDULER_CLASSES))]
    for title, table in _TABLES.items():
        rows = [f"| `{name}` | {_treatment(key)} |" for name, key in table.items()]
        parts.append("\n".join([f"## {title}", "", "| key | treatment |", "| --- | --- |", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    print(as_markdown(), end="")
