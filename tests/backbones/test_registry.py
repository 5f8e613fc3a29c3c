from __future__ import annotations

import pytest

from streamer.backbones import BACKBONES, Output, feature_shape, get_backbone
from streamer.errors import ConfigError


@pytest.mark.parametrize(
    ("backbone", "output", "size", "shape"),
    [
        ("vgg16", Output("block5_pool"), None, (7, 7, 512)),
        ("vgg16", Output("block5_conv3"), None, (14, 14, 512)),
        ("vgg16", Output("block5_pool"), (64, 96), (2, 3, 512)),
        ("vgg16", Output("block5_pool", "gem"), (64, 96), (512,)),
        ("vgg16", Output("flatten"), None, (25088,)),
        ("vgg16", Output("fc2"), None, (4096,)),
        ("vgg16", Output("predictions"), None, (1000,)),
        ("resnet50", Output("conv1_relu"), None, (112, 112, 64)),
        ("resnet50", Output("conv5_block3_out"), (96, 96), (3, 3, 2048)),
        ("resnet50", Output("avg_pool"), None, (2048,)),
        ("inception_v3", Output("mixed10"), None, (8, 8, 2048)),
        ("inception_v3", Output("mixed0", "avg"), (75, 75), (256,)),
    ],
)
def test_feature_shapes(backbone: str, output: Output, size: tuple[int, int] | None, shape: tuple[int, ...]) -> None:
    assert feature_shape(get_backbone(backbone), output, size) == shape


def test_names_of_outputs() -> None:
    assert Output("fc2").name == "fc2"
    assert Output("block5_pool", "gem").name == "block5_pool:gem"
    assert Output("block4_pool", "max", 3).name == "block4_pool:max:3x3"
    for output in (Output("fc2"), Output("block5_pool", "gem"), Output("block4_pool", "max", 12)):
        assert Output.from_name(output.name) == output


def test_grids_that_make_no_sense_are_refused() -> None:
    assert feature_shape(get_backbone("vgg16_compact"), Output("block4_pool", "gem", 3)) == (9 * 192,)
    for pooling, grid in (("gem", 0), ("none", 2)):
        with pytest.raises(ConfigError, match=f"grid of {grid} makes no sense"):
            Output("block4_pool", pooling, grid)
    with pytest.raises(ConfigError, match=r"map of 2 x 2.*grid of 3 x 3.*input_size"):
        feature_shape(get_backbone("vgg16_compact"), Output("block5_pool", "gem", 3))


@pytest.mark.parametrize("name", list(BACKBONES))
def test_defaults_work(name: str) -> None:
    backbone = get_backbone(name)
    assert feature_shape(backbone, backbone.default_output)
    assert not backbone.outputs_need_top([backbone.default_output])
    assert feature_shape(backbone, Output(backbone.last_map), (backbone.minimum_size,) * 2)


def test_what_needs_the_top() -> None:
    vgg16 = get_backbone("vgg16")
    assert [layer for layer in vgg16.layers if vgg16.needs_top(layer)] == ["flatten", "fc1", "fc2", "predictions"]
    assert vgg16.outputs_need_top([Output("block5_pool"), Output("fc2")])
    assert get_backbone("resnet50").needs_top("avg_pool")


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone 'resnet5'.*'resnet50'.*vgg16"):
        get_backbone("resnet5")
    with pytest.raises(ConfigError, match=r"vgg16 has no layer 'block5_pol'.*'block5_pool'.*predictions"):
        feature_shape(get_backbone("vgg16"), Output("block5_pol"))
    with pytest.raises(ConfigError, match=r"unknown pooling 'mean'.*avg"):
        Output("block5_pool", "mean")


def test_the_top_works_at_one_size() -> None:
    with pytest.raises(ConfigError, match=r"224 x 224.*not at 256 x 256.*block5_pool"):
        feature_shape(get_backbone("vgg16"), Output("fc2"), (256, 256))


@pytest.mark.parametrize(("name", "size"), [("vgg16", (31, 64)), ("inception_v3", (75, 74))])
def test_inputs_below_the_least_are_refused(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="too small"):
        feature_shape(get_backbone(name), get_backbone(name).default_output, size)


def test_a_vector_cannot_be_pooled() -> None:
    with pytest.raises(ConfigError, match=r"'fc2' gives a vector of 4096 numbers.*use pooling: none"):
        feature_shape(get_backbone("vgg16"), Output("fc2", "gem"))
