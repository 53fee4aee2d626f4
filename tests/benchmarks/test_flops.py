"""The count of a program's products, compared with PyTorch's own count for the module."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import flops
from converter.mil import FP16
from converter.networks.unet import unet
from converter.networks.unet_shape import unet_shape
from converter.networks.vae import vae_decoder
from converter.runtime.program import read_model
from tests.support.checkpoints import tiny_unet, tiny_vae
from tests.support.mil_packages import package_of


def counted_by_torch(run):
    # Torch has no count for the fused attention of CPUs; as matrix products it counts.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_a_unets_products_are_those_torch_counts(tmp_path):
    module = tiny_unet()
    path = package_of(
        module,
        tmp_path,
        lambda layers: unet(layers, unet_shape(dict(module.config)), batch=2, tokens=7, height=8, width=16),
    )
    states = torch.zeros(2, 7, module.config.cross_attention_dim)
    expected = counted_by_torch(lambda: module(torch.zeros(2, 4, 8, 16), torch.ones(2), states))
    assert flops(read_model(path).mlProgram) == expected


def test_attention_counts_the_same_however_it_is_spelled(tmp_path):
    module = tiny_unet()

    def counted(attention):
        path = package_of(
            module,
            tmp_path / attention,
            lambda layers: unet(layers, unet_shape(dict(module.config)), batch=2, tokens=7, height=8, width=8),
            attention,
        )
        return flops(read_model(path).mlProgram)

    assert counted("split_einsum") == counted("original") == counted("split_einsum_v2")


def test_a_decoders_products_are_those_torch_counts(tmp_path):
    module = tiny_vae()
    path = package_of(module, tmp_path, lambda layers: vae_decoder(layers, dict(module.config), height=64, width=64))
    expected = counted_by_torch(lambda: module.decode(torch.zeros(1, 4, 8, 8)))
    assert flops(read_model(path).mlProgram) == expected


def test_a_product_of_a_transposed_matrix_counts_its_inner_side(tmp_path):
    def write(layers):
        g = layers.graph
        a, b = g.input("x", (2, 3, 5), FP16), g.input("z", (2, 3, 7), FP16)
        g.output(g.matmul(a, b, "product", transpose_x=True), "image")

    path = package_of(tiny_unet(), tmp_path, write)
    assert flops(read_model(path).mlProgram) == 2 * 2 * 5 * 7 * 3
