"""Epilogues: the steps applied to a layer's result before it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

#: Steps that read a tensor with one value per channel, or one per output element.
CHANNEL_STEPS = frozenset({"add_channel", "mul_channel"})
TENSOR_STEPS = frozenset({"add", "mul"})
#: All steps, with the number of values that each takes.
_STEPS = {
    **dict.fromkeys((*CHANNEL_STEPS, *TENSOR_STEPS), 0),
    **dict.fromkeys(("relu", "hard_swish", "hard_sigmoid", "sigmoid"), 0),
    "clip": 2,
}


@dataclass(frozen=True)
class Step:
    """One operation on a layer's result.

    Parameters
    ----------
    op : str
        `add_channel` and `mul_channel` take a vector of one value per channel, `add` and `mul`
        a tensor like the output; `relu`, `clip`, `hard_swish`, `hard_sigmoid` and `sigmoid` none.
    values : tuple of float
        Lower and upper bound of `clip`.
    """

    op: str
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Return the step as logs write it: `clip(0,6)`."""
        return f"{self.op}({','.join(f'{v:g}' for v in self.values)})" if self.values else self.op

    @staticmethod
    def parse(text: str) -> Step:
        """Read a step back from its text.

        Raises
        ------
        ValueError
            If no step has this text.
        """
        op, _, values = text.partition("(")
        step = Step(op, tuple(map(float, values.rstrip(")").split(","))) if values else ())
        if _STEPS.get(op) != len(step.values):
            raise ValueError(f"unknown epilogue step {text!r}")
        return step

    def apply(self, x: Any, operand: Any = None, dtype: str = "float32") -> Any:
        """Return the expression of the step's result.

        Parameters
        ----------
        x : Expr
            The value that the step is applied to.
        operand : Expr, optional
            The element of the step's tensor, if it has one.
        dtype : str
            The type of `x`.
        """

        def number(value: float) -> Any:
            return tirx.const(value, dtype)

        match self.op:
            case "add_channel" | "add":
                return x + operand
            case "mul_channel" | "mul":
                return x * operand
            case "relu":
                return tirx.max(x, number(0.0))
            case "clip":
                low, high = self.values
                return tirx.min(tirx.max(x, number(low)), number(high))
            case "hard_sigmoid":
                return tirx.min(tirx.max(x * number(1 / 6) + number(0.5), number(0.0)), number(1.0))
            case "hard_swish":
                gate = tirx.min(tirx.max(x + number(3.0), number(0.0)), number(6.0))
                return x * gate * number(1 / 6)
            case "sigmoid":
                return number(1.0) / (number(1.0) + tirx.exp(-x))
        raise ValueError(f"unknown epilogue step {self.op}")


Epilogue = tuple[Step, ...]


def residuals(epilogue: Epilogue) -> int:
    """Return how many tensors of the output's shape an epilogue reads."""
    return sum(step.op in TENSOR_STEPS for step in epilogue)
