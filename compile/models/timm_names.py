"""The names of the same networks' layers in timm (pytorch-image-models)."""

from mobilenet_tvm.compile.models.layers import ConvolutionSpec, SqueezeExciteSpec
from mobilenet_tvm.compile.models.networks import Classifier

# timm keeps PyTorch's default everywhere, also in V3.
TIMM_EPSILON = 1e-5


def timm_names(architecture: Classifier) -> dict[str, str]:
    """Map the name of each layer and batch norm to timm's.

    Parameters
    ----------
    architecture
        A network with torchvision's names: MobileNet V1 to V3, EfficientNet.

    Returns
    -------
    dict
        timm's names by ours, without `.weight`, `.bias` and so on, in the order of execution.

    References
    ----------
    State dicts of timm's mobilenetv1_100, mobilenetv2_100, mobilenetv3_large_100,
    mobilenetv3_small_100, efficientnet_b0 and efficientnet_lite0. Its `tf_`
    variants have the same names but pad differently.
    """
    names: dict[str, str] = {}

    def convolution(layer: ConvolutionSpec, name: str, norm: str) -> None:
        names[layer.name] = name
        if layer.norm:
            names[layer.norm] = norm

    convolution(architecture.stem, "conv_stem", "bn1")
    stage, index = -1, 0
    for block in architecture.blocks:
        index = index + 1 if block.stage == stage else 0
        stage = block.stage
        at = f"blocks.{stage}.{index}"
        count = sum(isinstance(layer, ConvolutionSpec) for layer in block.layers)
        roles = iter(("conv_pw", "conv_dw", "conv_pwl") if count == 3 else ("conv_dw", "conv_pw"))
        norms = iter(("bn1", "bn2", "bn3"))
        for layer in block.layers:
            if isinstance(layer, SqueezeExciteSpec):
                names[layer.squeeze.name] = f"{at}.se.conv_reduce"
                names[layer.excite.name] = f"{at}.se.conv_expand"
            else:
                convolution(layer, f"{at}.{next(roles)}", f"{at}.{next(norms)}")
    hidden, last = architecture.classifier[:-1], architecture.classifier[-1]
    if architecture.head and hidden:
        convolution(architecture.head, f"blocks.{stage + 1}.0.conv", f"blocks.{stage + 1}.0.bn1")
    elif architecture.head:
        convolution(architecture.head, "conv_head", "bn2")
    for linear in hidden:
        names[linear.name] = "conv_head"
    names[last.name] = "classifier"
    return names
