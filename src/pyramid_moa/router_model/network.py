"""The router's network: a few small networks side by side, averaged.

Shapes: B queries, F features, M members, H hidden size of a member, K components kept of it,
D inputs, S seeds, U hidden units, 2 heads (the ensemble fails; the oracle is right).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyramid_moa.router_model.hidden_rows import HiddenRows, float_rows, spans
from pyramid_moa.router_model.principal_components import whitened_components

__all__ = ["HEADS", "NetworkShape", "RouterNetwork"]

HEADS = ("ensemble_fails", "oracle_right")

# Standardised inputs beyond this say "far out" and no more.
_CLIP = 5.0


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """All that is needed to build the network before its weights are loaded.

    Attributes:
        features: F.
        hidden_sizes: H of each member whose hidden states are read; empty for none.
        components: K.
        units: U.
        seeds: S.
    """

    features: int
    hidden_sizes: tuple[int, ...]
    components: int
    units: int
    seeds: int

    @property
    def inputs(self) -> int:
        """D: the features, whether each is known, and the components of each member."""
        return 2 * self.features + len(self.hidden_sizes) * self.components


class RouterNetwork(nn.Module):
    """Standardise, reduce hidden states, and score with S networks of one hidden layer.

    The router begins as the vote rule: a logistic curve over the vote share, the first feature.
    Each of the S networks learns what to add to it, by a linear path, which is what a few hundred
    labels can support, and a layer of U units, which is what a few thousand can.
    """

    feature_mean: Tensor  # [F]
    feature_scale: Tensor  # [F]
    prior: Tensor  # [2, 2]: slope and offset of each head over the vote share
    calibration: Tensor  # [2, 2]: slope and offset of each head

    def __init__(self, shape: NetworkShape, *, dropout: float = 0.0) -> None:
        """Build with neutral statistics; ``fit_inputs`` or a checkpoint fills them in."""
        super().__init__()
        self.shape = shape
        self.register_buffer("feature_mean", torch.zeros(shape.features))
        self.register_buffer("feature_scale", torch.ones(shape.features))
        self.register_buffer("prior", torch.zeros(2, 2))
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        for index, size in enumerate(shape.hidden_sizes):
            self.register_buffer(f"hidden_mean_{index}", torch.zeros(size))
            self.register_buffer(f"hidden_components_{index}", torch.zeros(size, shape.components))
        self.linear = nn.Parameter(torch.zeros(shape.seeds, shape.inputs, 2))
        self.first = nn.Parameter(torch.zeros(shape.seeds, shape.inputs, shape.units))
        self.first_offset = nn.Parameter(torch.zeros(shape.seeds, 1, shape.units))
        self.second = nn.Parameter(torch.zeros(shape.seeds, shape.units, 2))
        self.offset = nn.Parameter(torch.zeros(shape.seeds, 1, 2))
        self.dropout = nn.Dropout(dropout)

    def reset(self, generator: torch.Generator) -> None:
        """Draw new weights; what they add to the vote rule is nothing at first."""
        with torch.no_grad():
            self.first.normal_(0.0, self.shape.inputs**-0.5, generator=generator)
            self.second.zero_()
            self.linear.zero_()
            self.offset.zero_()
            self.first_offset.zero_()

    def fit_inputs(
        self, features: Tensor, hidden: Sequence[HiddenRows], generator: torch.Generator
    ) -> None:
        """Take the statistics of the training queries.

        Args:
            features: [B, F], NaN where unknown.
            hidden: [B, H] for each member; a row of zeros where there is none. They are gone over
                several times, and never held together.
            generator: draws where the search for principal components begins.
        """
        known = ~features.isnan()
        count = known.sum(0).clamp(min=1)
        filled = torch.where(known, features, 0.0)
        mean = filled.sum(0) / count
        variance = torch.where(known, (features - mean).square(), 0.0).sum(0) / count
        self.feature_mean.copy_(mean)
        # A constant feature stays zero whatever it is divided by.
        self.feature_scale.copy_(torch.where(variance > 1e-12, variance.sqrt(), 1.0))
        for index, states in enumerate(hidden):
            mean, components = whitened_components(states, self.shape.components, generator)
            getattr(self, f"hidden_mean_{index}").copy_(mean)
            getattr(self, f"hidden_components_{index}").copy_(components)

    def inputs(self, features: Tensor, hidden: Sequence[Tensor]) -> Tensor:
        """Standardised inputs of shape [B, D]."""
        known = ~features.isnan()
        standard = (torch.where(known, features, self.feature_mean) - self.feature_mean) / (
            self.feature_scale
        )
        parts = [standard.clamp(-_CLIP, _CLIP), (~known).to(features.dtype)]
        for index, states in enumerate(hidden):
            present = (states != 0).any(dim=1, keepdim=True)
            reduced = (states - getattr(self, f"hidden_mean_{index}")) @ getattr(
                self, f"hidden_components_{index}"
            )
            parts.append(torch.where(present, reduced, 0.0).clamp(-_CLIP, _CLIP))
        return torch.cat(parts, dim=1)

    def many_inputs(self, features: Tensor, hidden: Sequence[HiddenRows]) -> Tensor:
        """Standardised inputs of shape [B, D], hidden states read a piece at a time.

        Args:
            features: [B, F], NaN where unknown.
            hidden: [B, H] for each member whose hidden states are read.
        """
        return torch.cat(
            [
                self.inputs(features[span], [float_rows(rows, span) for rows in hidden])
                for span in spans(len(features))
            ]
        )

    def logits(self, inputs: Tensor) -> Tensor:
        """Uncalibrated logits of every seed, shape [S, B, 2], from inputs [B, D]."""
        share = inputs[:, :1]  # [B, 1]
        inputs = inputs.expand(self.shape.seeds, -1, -1)
        units = torch.relu(torch.bmm(self.dropout(inputs), self.first) + self.first_offset)
        learned = torch.bmm(self.dropout(inputs), self.linear) + torch.bmm(
            self.dropout(units), self.second
        )
        return share * self.prior[:, 0] + self.prior[:, 1] + learned + self.offset

    def forward(self, features: Tensor, *hidden: Tensor) -> Tensor:
        """Calibrated probabilities, shape [B, 2] in the order of ``HEADS``.

        Args:
            features: [B, F], NaN where unknown.
            hidden: [B, H] for each member whose hidden states are read.
        """
        return self.probabilities(self.inputs(features, hidden))

    def probabilities(self, inputs: Tensor) -> Tensor:
        """Calibrated probabilities [B, 2] in the order of ``HEADS``, from inputs [B, D]."""
        mean = self.logits(inputs).mean(dim=0)
        return torch.sigmoid(mean * self.calibration[:, 0] + self.calibration[:, 1])
