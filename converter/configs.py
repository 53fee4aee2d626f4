"""What checkpoints' configurations may say, key by key: what is read, what must have one value, what does not matter.

The keys and their defaults are those of diffusers' and transformers' constructors. A key that neither library reads
changes nothing there and nothing here; a key that is read there and not here is refused by name unless it has the value
that means what is done here. docs/configurations.md is this table in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from converter.errors import CheckpointError

Config: TypeAlias = dict[str, Any]
#: There is no default: the key must be there.
REQUIRED = object()


@dataclass(frozen=True)
class Kind:
    """A sort of value: whether one is of it, and what it is called."""

    words: str
    accepts: Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


def _list_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(accepts(v) for v in value)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _either(*accepted: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(accepts(value) for accepts in accepted)


def _none(value: Any) -> bool:
    return value is None


WHOLE = Kind("a whole number from 1", _whole)
WHOLE_OR_NONE = Kind("a whole number from 1, or null", _either(_whole, _none))
INDEX = Kind("a whole number from 0", lambda value: type(value) is int and value >= 0)
NUMBER = Kind("a number", _number)
POSITIVE = Kind("a number above 0", lambda value: _number(value) and value > 0)
FLAG = Kind("true or false", lambda value: type(value) is bool)
PER_LEVEL = Kind("a whole number from 1, or one for each level", _either(_whole, _list_of(_whole)))
DEPTHS = Kind(
    "a whole number from 1, or one (or a list) for each level",
    _either(_whole, _list_of(_either(_whole, _list_of(_whole)))),
)
DEPTHS_OR_NONE = Kind(f"{DEPTHS.words}, or null", _either(_none, DEPTHS.accepts))
WIDTHS = Kind("a list of whole numbers", _list_of(_whole))
NAMES = Kind("a list of names", _list_of(lambda value: isinstance(value, str)))
SIDE = Kind(
    "a whole number, [height, width] or null",
    _either(
        _whole, _none, lambda value: isinstance(value, list | tuple) and len(value) == 2 and all(map(_whole, value))
    ),
)
BETAS = Kind("a list of numbers between 0 and 1, or null", _either(_none, _list_of(lambda v: _number(v) and 0 < v < 1)))
ANYTHING = Kind("anything", lambda value: True)


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    fate: ``read``, ``only`` (refused unless it has one of ``accepted``) or ``passed over``, as ``why`` says.
    default: what the library takes where the key is missing.
    """

    fate: Literal["read", "only", "passed over"]
    default: Any
    kind: Kind = ANYTHING
    accepted: tuple[Any, ...] = ()
    why: str = ""


Table: TypeAlias = Mapping[str, Key]


def _read(default: Any, kind: Kind) -> Key:
    return Key("read", default, kind)


def _only(default: Any, *accepted: Any, why: str = "") -> Key:
    return Key("only", default, accepted=(default, *accepted) if default is not REQUIRED else accepted, why=why)


def _passed_over(default: Any, why: str) -> Key:
    return Key("passed over", default, why=why)


_TRAINING = "matters in training only"
_RANGE = "computed in fp16 within its range, whatever this says"
_SAMPLING = "how to sample is each request's choice of scheduler"
_NO_ADDED_HEADS = "of kinds of conditions that are refused"
_LIBRARY = "of the library's own bookkeeping"

_BLOCKS = {
    "in_channels": _read(4, WHOLE),
    "flip_sin_to_cos": _read(True, FLAG),
    "freq_shift": _read(0, NUMBER),
    "down_block_types": _read(REQUIRED, NAMES),
    "mid_block_type": _only("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
    "only_cross_attention": _only(False),
    "block_out_channels": _read(REQUIRED, WIDTHS),
    "layers_per_block": _read(2, PER_LEVEL),
    "downsample_padding": _only(1),
    "mid_block_scale_factor": _only(1),
    "act_fn": _only("silu", "swish"),
    "norm_num_groups": _read(32, WHOLE),
    "norm_eps": _read(1e-5, POSITIVE),
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
    "upcast_attention": _passed_over(False, "scores are scaled before they are multiplied, and stay in fp16's range"),
    "resnet_time_scale_shift": _only("default"),
    "projection_class_embeddings_input_dim": _read(None, WHOLE_OR_NONE),
    "addition_embed_type_num_heads": _passed_over(64, _NO_ADDED_HEADS),
}
UNET: Table = {
    **_BLOCKS,
    "sample_size": _read(None, SIDE),
    "out_channels": _read(4, WHOLE),
    "center_input_sample": _only(False),
    "up_block_types": _read(REQUIRED, NAMES),
    "dropout": _passed_over(0.0, _TRAINING),
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
    "layers_per_block": _read(1, WHOLE),
    "act_fn": _only("silu", "swish"),
    "latent_channels": _read(4, WHOLE),
    "norm_num_groups": _read(32, WHOLE),
    "sample_size": _passed_over(32, "the size of the tiles diffusers may cut large images into"),
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
    "num_hidden_layers": _read(12, WHOLE),
    "num_attention_heads": _read(8, WHOLE),
    "max_position_embeddings": _read(77, WHOLE),
    "hidden_act": _only("quick_gelu", "gelu"),
    "layer_norm_eps": _read(1e-5, POSITIVE),
    "eos_token_id": _read(49407, INDEX),
    "use_attention_mask": _only(False, None, why="every token is looked at, padding too"),
    "attention_dropout": _passed_over(0.0, _TRAINING),
    "dropout": _passed_over(0.0, _TRAINING),
    "initializer_range": _passed_over(0.02, _TRAINING),
    "initializer_factor": _passed_over(1.0, _TRAINING),
    "pad_token_id": _passed_over(1, "the tokenizer's own padding is used"),
    "bos_token_id": _passed_over(49406, "the tokenizer's own begin is used"),
    "text_config": _only(None, why="a whole CLIPModel is no text encoder"),
    "transformers_version": _passed_over(None, _LIBRARY),
    "torch_dtype": _passed_over(None, _LIBRARY),
    "dtype": _passed_over(None, _LIBRARY),
    "output_hidden_states": _passed_over(False, _LIBRARY),
    "output_attentions": _passed_over(False, _LIBRARY),
    "return_dict": _passed_over(True, _LIBRARY),
    "chunk_size_feed_forward": _passed_over(0, "how much is computed at once, with the same result"),
    "is_encoder_decoder": _only(False),
    "id2label": _passed_over(None, _LIBRARY),
    "label2id": _passed_over(None, _LIBRARY),
    "problem_type": _passed_over(None, _LIBRARY),
}
TOKENIZER: Table = {
    "tokenizer_class": _only("CLIPTokenizer", "CLIPTokenizerFast", None),
    "pad_token": _read("<|endoftext|>", ANYTHING),
    "bos_token": _read("<|startoftext|>", ANYTHING),
    "eos_token": _read("<|endoftext|>", ANYTHING),
    "unk_token": _passed_over("<|endoftext|>", "byte-level BPE knows every text"),
    "do_lower_case": _only(True, why="prompts are read in lower case"),
    "add_prefix_space": _only(False, None),
    "errors": _passed_over("replace", "of turning tokens back into text"),
    "model_max_length": _read(77, ANYTHING),
    "added_tokens_decoder": _read(None, ANYTHING),
    "additional_special_tokens": _read(None, ANYTHING),
    "extra_special_tokens": _read(None, ANYTHING),
    "clean_up_tokenization_spaces": _passed_over(None, "of turning tokens back into text"),
    "padding_side": _only("right", None),
    "truncation_side": _passed_over("right", "a long prompt is cut at its end or given in pieces, as the request says"),
    "name_or_path": _passed_over(None, _LIBRARY),
    "special_tokens_map_file": _passed_over(None, _LIBRARY),
    "tokenizer_file": _passed_over(None, _LIBRARY),
    "backend": _passed_over(None, _LIBRARY),
    "is_local": _passed_over(None, _LIBRARY),
    "local_files_only": _passed_over(None, _LIBRARY),
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
    "use_flow_sigmas": _only(False, why="models trained by flow matching are not sampled here"),
    "timestep_type": _only("discrete", why="EDM models are not sampled here"),
    "thresholding": _only(False, why="latents have no bounds to be clipped to"),
    "use_dynamic_shifting": _only(False),
    "shift_terminal": _only(None),
    "sigma_min": _only(None),
    "sigma_max": _only(None),
    "original_inference_steps": _only(50),
    "timestep_scaling": _only(10.0),
    "clip_sample": _passed_over(False, "latents have no bounds; diffusers' pipelines for Stable Diffusion turn it off"),
}
#: Keys of the samplers themselves, read by diffusers' classes and by nothing here, with the default of those that make
#: other images where they have another value; None where each class has its own.
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
SCHEDULER: Table = {**_NOISE, **{name: _passed_over(default, _SAMPLING) for name, default in _SAMPLING_KEYS.items()}}
_LEADING = {"timestep_spacing": "leading"}
_WIDER: Config = {"beta_start": 0.00085, "beta_end": 0.012}
_OF_LCM = _LEADING | _WIDER | {"beta_schedule": "scaled_linear"}
#: diffusers' schedulers whose noise is the one described by SCHEDULER, and where their defaults are others than there.
#: All that are not here (EDM, flow matching, consistency models, ...) train and sample otherwise.
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


def expect(where: str, config: Config, name: str, accepted: tuple[Any, ...], default: Any = None) -> None:
    """Raise CheckpointError unless ``config`` has one of the accepted values under ``name``."""
    found = config.get(name, default)
    if found not in accepted:
        raise CheckpointError(f"{where} has {name} = {found!r}; this converter knows {_listed(accepted)}")


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join("null" if v is None else repr(v) for v in values)


def read_config(where: str, given: Config, table: Table, defaults: Config | None = None) -> Config:
    """The configuration with defaults for what it lacks, and only the keys of ``table``.

    ``defaults`` go before the table's. Raises CheckpointError that begins with ``where`` and names the key, its value
    and what is accepted.
    """
    found: Config = {}
    for name, key in table.items():
        value = given.get(name, (defaults or {}).get(name, key.default))
        if value is REQUIRED:
            raise CheckpointError(f"{where} lacks {name}; accepted: {key.kind.words}")
        # diffusers fills a setting of every level with one value; a list that has it everywhere means the same.
        same = (
            value[0]
            if isinstance(value, list) and key.fate == "only" and value and value not in key.accepted
            else value
        )
        if isinstance(value, list) and any(v != same for v in value):
            same = value
        if key.fate == "only" and not any(
            same == a and isinstance(same, bool) == isinstance(a, bool) for a in key.accepted
        ):
            because = f" ({key.why})" if key.why else ""
            raise CheckpointError(
                f"{where} has {name} = {value!r}; this converter knows {_listed(key.accepted)}{because}"
            )
        if not key.kind.accepts(value):
            raise CheckpointError(f"{where} has {name} = {value!r}; accepted: {key.kind.words}")
        found[name] = same
    return found


def not_followed(where: str, given: Config, table: Table) -> list[str]:
    """What a configuration says that is not followed here though its library might, in sentences."""
    found = []
    for name, value in given.items():
        key = table.get(name)
        if key is None and not name.startswith("_"):
            found.append(f"{where} has {name} = {value!r}, which its library does not read either")
        elif key is not None and key.why == _SAMPLING and key.default is not None and value != key.default:
            found.append(f"{where} has {name} = {value!r}: {key.why}")
    return found


def is_projected(config: Config) -> bool:
    """Whether a text encoder's pooled state is projected (CLIPTextModelWithProjection)."""
    return bool(config["architectures"] == ["CLIPTextModelWithProjection"])
