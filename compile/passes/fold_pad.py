"""A compiler pass that folds an explicit zero Pad into the convolution or mean that follows it."""

from __future__ import annotations

from tvm import relax

from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import op_name


class FoldPad(GraphRewriter):
    """Turn `conv2d(pad(x))` into a convolution with (possibly asymmetric) padding, in NCHW.

    Likewise an average pooling, which then counts its padding.
    """

    def visit_call(self, call: relax.Call) -> relax.Expr | None:
        """Add the widths of a preceding spatial zero pad to the padding of a call."""
        if op_name(call) not in ("nn.conv2d", "nn.avg_pool2d"):
            return None
        pad = self.producer(call.args[0], "nn.pad")
        if pad is None or pad.attrs.pad_mode != "constant" or pad.attrs.pad_value != 0.0:
            return None
        # An integer layer takes its padding with the zero point, which may be zero.
        if str(pad.args[0].ty.dtype) not in ("float32", "float16"):
            return None
        widths = [int(width) for width in pad.attrs.pad_width]
        if any(widths[:4]):
            return None
        top, bottom, left, right = widths[4:]
        attrs = call.attrs
        padding = [int(width) for width in attrs.padding]
        both = [padding[0] + top, padding[1] + left, padding[2] + bottom, padding[3] + right]
        if op_name(call) == "nn.avg_pool2d":
            if (any(padding) and not attrs.count_include_pad) or attrs.ceil_mode:
                return None
            return relax.op.nn.avg_pool2d(
                pad.args[0],
                pool_size=attrs.pool_size,
                strides=attrs.strides,
                padding=both,
                dilation=attrs.dilation,
                count_include_pad=True,
                layout=attrs.layout,
            )
        return relax.op.nn.conv2d(
            pad.args[0],
            call.args[1],
            strides=attrs.strides,
            padding=both,
            dilation=attrs.dilation,
            groups=attrs.groups,
            data_layout=attrs.data_layout,
            kernel_layout=attrs.kernel_layout,
            out_dtype=attrs.out_dtype or None,
        )
