"""Options that do not go together, whatever the checkpoint: found before anything is opened, downloaded or queued."""

from __future__ import annotations

from converter.errors import AnemoneError
from converter.mil import MACOS14, MACOS15, Target, TargetError, check_encoding, target_named
from converter.options import DEFAULT_OPTIONS, MOST_CHUNKS, MOST_GROUPED, ConvertOptions
from converter.weights.encodings import LINEAR_BITS, Encoding


class OptionError(AnemoneError):
    """An option does not go with the others.

    option: the option to change.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


def check_options(options: ConvertOptions) -> Target:
    """Return the target. Raises OptionError for an option that is out of its range or does not go with the others."""
    try:
        target = target_named(options.target)
        _check_compression(options, target)
    except TargetError as error:
        raise OptionError("target", str(error)) from error
    if options.functions and not target.at_least(MACOS15):
        raise OptionError(
            "target",
            f"several functions in one package need macOS 15, and the target is {target.name}; leave functions out, or "
            "convert for macOS15",
        )
    if options.chunks is not None and not 2 <= options.chunks <= MOST_CHUNKS:
        raise OptionError("chunks", f"{options.chunks} chunks are not accepted; accepted: 2 to {MOST_CHUNKS}")
    if options.image_encoder is not None and not options.ip_adapters:
        raise OptionError(
            "image_encoder", "image_encoder is for IP-Adapters, and ip_adapters is empty; name one, or leave it out"
        )
    return target


def _check_compression(options: ConvertOptions, target: Target) -> None:
    if options.recipe is not None and options.quantization != DEFAULT_OPTIONS.quantization:
        raise OptionError(
            "recipe", f"a recipe is of palettes, and quantization is {options.quantization}; leave one out"
        )
    if options.group_size is not None and not 1 <= options.group_size <= MOST_GROUPED:
        raise OptionError(
            "group_size", f"group_size {options.group_size} is not accepted; accepted: 1 to {MOST_GROUPED}"
        )
    if options.bits is None and options.group_size is not None and options.recipe is None:
        raise OptionError(
            "group_size", "group_size is for compressed weights; give bits too, such as 6, or leave it out"
        )
    if options.bits is None and options.quantization != DEFAULT_OPTIONS.quantization:
        raise OptionError(
            "quantization", f"quantization is {options.quantization}, but bits is left out; give bits too: 8 or 4"
        )
    if options.quantization == "linear" and options.bits not in LINEAR_BITS:
        raise OptionError("bits", f"linear integers of {options.bits} bits are not accepted; accepted: 8, 4")
    if options.activations is not None and (options.quantization, options.bits) != ("linear", 8):
        raise OptionError(
            "activations", "activations are for 8-bit linear weights; give bits 8 and quantization linear too"
        )
    if options.activations is not None and not target.at_least(MACOS14):
        raise OptionError(
            "target", f"activations of 8 bits need macOS 14, and the target is {target.name}; convert for macOS14"
        )
    if options.bits is not None:
        check_encoding(Encoding(options.quantization, options.bits, options.group_size), target)
