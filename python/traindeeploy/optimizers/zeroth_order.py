"""Training without a backward pass: gradients from differences of the loss along random directions.

Spall, Multivariate Stochastic Approximation Using a Simultaneous Perturbation Gradient Approximation (1992),
and in place, with directions that are drawn anew: Malladi et al., Fine-Tuning Language Models with Just
Forward Passes (MeZO), arXiv:2305.17333. docs/zeroth-order.md has the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..choices import chosen
from ..errors import TrainDeeployError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_DIRECTIONS = 16
MOST_DRAWN = 2**24
"""The device counts directions in float32."""


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


@dataclass(frozen=True)
class ZerothOrder:
    """How gradients are estimated from losses.

    eps: how far parameters are moved along a direction. directions: of an update; the estimate is the mean of
    theirs. one_sided: differences with the loss at the parameters themselves, instead of between both sides.
    rademacher: directions of -1 and 1 instead of normal numbers. seed: of the directions.

    Errors: TrainDeeployError for numbers that are none of these.
    """

    eps: float = field(default=1e-3, metadata={"kind": float})
    directions: int = field(default=1, metadata={"kind": int})
    one_sided: bool = field(default=False, metadata={"kind": _boolean})
    rademacher: bool = field(default=False, metadata={"kind": _boolean})
    seed: int = field(default=0, metadata={"kind": int})

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and 1e-30 <= self.eps <= 1e30):
            raise TrainDeeployError(f"eps of zeroth-order is to be a distance above 0, not {self.eps:g}")
        if not 1 <= self.directions <= MOST_DIRECTIONS:
            raise TrainDeeployError(
                f"directions of zeroth-order is to be from 1 to {MOST_DIRECTIONS}, not {self.directions}"
            )
        if not 0 <= self.seed < 2**63:
            raise TrainDeeployError(f"seed of zeroth-order is to be from 0 to 2^63 - 1, not {self.seed}")

    @property
    def runs(self) -> int:
        """Forward passes of an update."""
        return self.directions + 1 if self.one_sided else 2 * self.directions

    @property
    def options(self) -> str:
        """As options of the pipeline td-graph."""
        words = {
            "one-sided": str(self.one_sided).lower(),
            "signs": str(self.rademacher).lower(),
            "seed": str(self.seed),
        }
        return f"zeroth-order={self.eps!r} directions={self.directions} " + " ".join(
            f"{name}={value}" for name, value in words.items()
        )

    def direction(self, number: int, first: int, count: int) -> npt.NDArray[np.float32]:
        """Elements of a direction, bit for bit as the device draws them.

        number: of the direction, from 0 on: update * directions + its number within the update. first,
        count: which elements, of all trained parameters one behind the other, in the model's order.
        """
        import numpy as np

        mask = np.uint64(0xFFFFFFFF)

        def mixed(x: Any) -> Any:
            x = ((x ^ x >> np.uint64(16)) * np.uint64(0x85EBCA6B)) & mask
            x = ((x ^ x >> np.uint64(13)) * np.uint64(0xC2B2AE35)) & mask
            return x ^ x >> np.uint64(16)

        seed = np.uint64(self.seed)
        key = mixed(mixed(np.uint64(number % 2**32) ^ seed & mask) ^ seed >> np.uint64(32))
        position = np.arange(first, first + count, dtype=np.uint64)
        bits = mixed(mixed(position + key & mask) ^ key).astype(np.uint32)
        if self.rademacher:
            return np.where(bits >> 31, np.float32(-1), np.float32(1))
        total = sum((bits >> np.uint32(shift) & np.uint32(255)).astype(np.int32) for shift in (0, 8, 16, 24))
        return np.asarray(total - 510, np.float32) * np.float32(1 / math.sqrt(21845))


def method(text: str | ZerothOrder) -> ZerothOrder | None:
    """The method that "backpropagation" (None), "zeroth-order" or "zeroth-order:KEY=VALUE,..." says.

    Raises TrainDeeployError for anything else.
    """
    if isinstance(text, ZerothOrder) or text == "backpropagation":
        return text if isinstance(text, ZerothOrder) else None
    if text.partition(":")[0] != "zeroth-order":
        raise TrainDeeployError(f"unknown method '{text}'; there are: backpropagation, zeroth-order")
    found = chosen("method", {"zeroth-order": ZerothOrder}, text)
    assert isinstance(found, ZerothOrder)
    return found
