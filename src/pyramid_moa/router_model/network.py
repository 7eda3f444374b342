"""The router's network: which of the members' different answers is right, if any?

At most one of the different answers to a question is right. The network gives every one a score,
and one to "none of them"; a softmax over both makes probabilities. Answers are read one by one by
the same weights and pooled over those who stand behind them and over the others, so that neither
the number of members nor their order matters (deep sets, Zaheer et al. 2017, arXiv 1703.06114).

Shapes: B queries, M places for members, A features of an answer, R relations of two answers, Q
features of a question, N known members, H hidden size of a known member, K components kept of it,
E size of an answer's code, U hidden units, S networks side by side whose probabilities are
averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from pyramid_moa.router_model.answer_pooling import among, between, pooled_codes
from pyramid_moa.router_model.features import NOT_ASKED
from pyramid_moa.router_model.hidden_rows import HiddenRows, float_rows, spans
from pyramid_moa.router_model.known_statistics import known_statistics
from pyramid_moa.router_model.principal_components import projected, whitened_components
from pyramid_moa.router_model.vote_figures import (
    QUERY_FIGURES,
    VOTE_FIGURES,
    query_figures,
    stands_behind,
    vote_figures,
    vote_places,
)

__all__ = [
    "HEADS",
    "UNKNOWN",
    "Logits",
    "NetworkInputs",
    "NetworkShape",
    "RouterNetwork",
    "chosen_places",
    "head_logits",
]

HEADS = ("ensemble_fails", "vote_fails", "oracle_right")
# Number of a member that the router does not know.
UNKNOWN = -1

# Standardised inputs beyond this say "far out" and no more.
_CLIP = 4.0
_TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """All that is needed to build the network before its weights are loaded.

    Attributes:
        answer_features: A.
        relation_features: R.
        question_features: Q.
        members: N.
        hidden_sizes: H of each known member; empty where no hidden states are read.
        components: K.
        code: E.
        units: U.
        seeds: S.
    """

    answer_features: int
    relation_features: int
    question_features: int
    members: int
    hidden_sizes: tuple[int, ...]
    components: int
    code: int
    units: int
    seeds: int

    @property
    def answer_inputs(self) -> int:
        """Features, whether each is known, each against the member's habit, question, skill."""
        return 3 * self.answer_features + self.question_features + 2


@dataclass(frozen=True, kw_only=True)
class NetworkInputs:
    """B queries, ready to be scored.

    Attributes:
        answers: [B, M, A], NaN where unknown.
        relations: [B, M, M, R], NaN where unknown.
        clusters: int [B, M]: place of the first member with an equal answer, or ``NO_ANSWER``,
            or ``NOT_ASKED``.
        question: [B, Q].
        members: int [B, M]: numbers of the known members, ``UNKNOWN`` for others.
        components: reduced hidden states, [B, M, K]; zeros where there is none.
    """

    answers: Tensor
    relations: Tensor
    clusters: Tensor
    question: Tensor
    members: Tensor
    components: Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.clusters)


@dataclass(frozen=True, kw_only=True)
class Logits:
    """What S networks say of B queries.

    Attributes:
        candidates: [S, B, 1 + M]: nobody is right, or the answer whose first member stands at
            this place; very low where no answer begins there.
        oracle: [S, B, 2]: the oracle is right, where none of the answers is, and where one is.
    """

    candidates: Tensor
    oracle: Tensor


class RouterNetwork(nn.Module):
    """Standardise, read every answer, pool, and score with S networks side by side."""

    answer_mean: Tensor  # [A]
    answer_scale: Tensor  # [A]
    relation_mean: Tensor  # [R]
    relation_scale: Tensor  # [R]
    question_mean: Tensor  # [Q]
    question_scale: Tensor  # [Q]
    habits: Tensor  # [N, A]: mean of each known member's answers
    skills: Tensor  # [N]: log-odds that a known member is right, less one
    calibration: Tensor  # [heads, 2]: slope and offset of each head

    def __init__(self, shape: NetworkShape, *, dropout: float = 0.0) -> None:
        """Build with neutral statistics; ``fit_inputs`` or a checkpoint fills them in."""
        super().__init__()
        self.shape = shape
        for name, size in (
            ("answer", shape.answer_features),
            ("relation", shape.relation_features),
            ("question", shape.question_features),
        ):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.register_buffer("habits", torch.zeros(shape.members, shape.answer_features))
        self.register_buffer("skills", torch.zeros(shape.members))
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]] * len(HEADS)))
        for index, size in enumerate(shape.hidden_sizes):
            self.register_buffer(f"hidden_mean_{index}", torch.zeros(size))
            self.register_buffer(f"hidden_components_{index}", torch.zeros(size, shape.components))
        read, pooled = shape.code, 3 * shape.code + 2 * shape.relation_features + VOTE_FIGURES
        query = 2 * shape.code + shape.relation_features + QUERY_FIGURES + shape.question_features
        self.read = _Layer(shape.seeds, shape.answer_inputs, shape.units)
        self.encode = _Layer(shape.seeds, shape.units, read)
        self.candidate = _Layer(shape.seeds, pooled, shape.units)
        self.candidate_score = _Layer(shape.seeds, shape.units, 1)
        self.candidate_linear = _Layer(shape.seeds, pooled, 1)
        self.query = _Layer(shape.seeds, query, shape.units)
        self.query_score = _Layer(shape.seeds, shape.units, 3)
        self.query_linear = _Layer(shape.seeds, query, 3)
        # What is known of one member only: how its answers differ, and what its states say.
        self.member_code = nn.Parameter(torch.zeros(shape.seeds, shape.members, read))
        if shape.hidden_sizes:
            own = (shape.seeds, len(shape.hidden_sizes), shape.components, read)
            self.hidden_code = nn.Parameter(torch.zeros(own))
        self.dropout = nn.Dropout(dropout)

    def reset(self, generator: torch.Generator) -> None:
        """Draw new weights; the members' own begin at nothing."""
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, _Layer):
                    layer.reset(generator)
            for layer in (self.candidate_linear, self.query_linear):
                layer.weight.zero_()
            self.member_code.zero_()
            if self.shape.hidden_sizes:
                self.hidden_code.zero_()

    def fit_inputs(
        self,
        answers: Tensor,
        relations: Tensor,
        question: Tensor,
    ) -> None:
        """Take the statistics of the training queries.

        Args:
            answers: [n, M, A], NaN where unknown.
            relations: [n, M, M, R], NaN where unknown.
            question: [n, Q].
        """
        for name, values in (("answer", answers), ("relation", relations), ("question", question)):
            mean, scale = known_statistics(values.flatten(0, -2))
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_scale").copy_(scale)

    def fit_members(self, answers: Tensor, members: Tensor, right: Tensor) -> None:
        """Take the habits and skills of the known members.

        Args:
            answers: [n, M, A], NaN where unknown.
            members: int [n, M], ``UNKNOWN`` where nobody known was asked.
            right: [n, M], 1 where the answer is right, 0 where it is not.
        """
        for number in range(self.shape.members):
            own = members == number  # [n, M]
            rows = answers[own]
            known = ~rows.isnan()
            count = known.sum(0)
            mean = torch.where(known, rows, 0.0).sum(0) / count.clamp(min=1)
            self.habits[number] = torch.where(count > 0, mean, self.answer_mean)
            # Add-two smoothing: few labels say little of how good a model is. Strangers, at zero,
            # are taken to be right 73 times in 100.
            hits = right[own].sum()
            self.skills[number] = torch.log((hits + 2) / (own.sum() - hits + 2)) - 1.0

    def fit_hidden(self, hidden: Sequence[HiddenRows], generator: torch.Generator) -> None:
        """Find the principal components of every known member's hidden states.

        Args:
            hidden: [n, H] for each; rows of zeros where there is none. They are gone over several
                times, and never held together.
            generator: draws where the search begins.
        """
        for index, states in enumerate(hidden):
            mean, components = whitened_components(states, self.shape.components, generator)
            getattr(self, f"hidden_mean_{index}").copy_(mean)
            getattr(self, f"hidden_components_{index}").copy_(components)

    def reduce(self, hidden: Sequence[Tensor]) -> Tensor:
        """Components of hidden states.

        Args:
            hidden: [B, H] for each known member; rows of zeros where there is none.

        Returns:
            [B, N, K], or [B, 0, K] where no hidden states are read.
        """
        parts = []
        for index, states in enumerate(hidden):
            mean = getattr(self, f"hidden_mean_{index}")
            directions = getattr(self, f"hidden_components_{index}")
            parts.append(projected(states, mean, directions))
        return torch.stack(parts, dim=1) if parts else torch.zeros(0, 0, self.shape.components)

    def reduce_rows(self, hidden: Sequence[HiddenRows], count: int) -> Tensor:
        """The same for n rows in files, read a piece at a time.

        Args:
            hidden: [n, H] for each known member.
            count: n.

        Returns:
            [n, N, K], or [n, 0, K].
        """
        if not hidden:
            return torch.zeros(count, 0, self.shape.components)
        pieces = [self.reduce([float_rows(rows, span) for rows in hidden]) for span in spans(count)]
        return torch.cat(pieces)

    def standard_question(self, question: Tensor) -> Tensor:
        """A question's features as they are read, [B, Q]."""
        return _standard(question, self.question_mean, self.question_scale)

    def logits(self, inputs: NetworkInputs) -> Logits:
        """Uncalibrated scores of all S networks."""
        codes = self._codes(inputs)  # [S, B, M, E]
        asked = (inputs.clusters != NOT_ASKED).to(codes.dtype)  # [B, M]
        behind = stands_behind(inputs.clusters).to(codes.dtype)  # [B, M, C]
        votes = behind.sum(1)  # [B, C]
        total = asked.sum(1, keepdim=True).clamp(min=1.0)  # [B, 1]
        skills = self._skills(inputs.members) * asked  # [B, M]
        alike, alike_in_all = self._alike(inputs, asked, behind)
        pooled = torch.cat(
            [
                *pooled_codes(codes, behind, votes, total),
                *(
                    part.expand(self.shape.seeds, -1, -1, -1)
                    for part in (*alike, vote_figures(votes, total, skills, behind))
                ),
            ],
            dim=-1,
        )  # [S, B, C, P]
        candidates = self._scores(pooled)
        candidates = torch.where(votes > 0, candidates, -1e4)
        nobody = self._query_scores(inputs, codes, votes, total, skills, alike_in_all)
        return Logits(
            candidates=torch.cat([nobody[..., :1], candidates], dim=-1), oracle=nobody[..., 1:]
        )

    def _codes(self, inputs: NetworkInputs) -> Tensor:
        """Read every answer: [S, B, M, E], zeros for members that were not asked."""
        batch, places = inputs.clusters.shape
        standard = _standard(inputs.answers, self.answer_mean, self.answer_scale)
        number = inputs.members.clamp(min=0)
        stranger = (inputs.members == UNKNOWN)[..., None]  # [B, M, 1]
        habit = self.habits[number] if self.shape.members else self.answer_mean
        habit = torch.where(stranger, self.answer_mean, habit)
        relative = _standard(inputs.answers, habit, self.answer_scale)
        parts = [
            torch.nan_to_num(standard),
            standard.isnan().to(standard.dtype),
            torch.nan_to_num(relative),
            self.standard_question(inputs.question)[:, None].expand(-1, places, -1),
            self._skills(inputs.members)[..., None],
            stranger.to(standard.dtype),
        ]
        flat = torch.cat(parts, dim=-1).flatten(0, 1).expand(self.shape.seeds, -1, -1)
        codes = self.encode(self._dropped(torch.relu(self.read(flat))))
        codes = codes.view(self.shape.seeds, batch, places, -1)
        if self.shape.members:
            codes = codes + self.member_code[:, number] * ~stranger
        if self.shape.hidden_sizes:
            own = torch.einsum(
                "bmk,sbmke->sbme", self._dropped(inputs.components), self.hidden_code[:, number]
            )
            codes = codes + own * ~stranger
        asked = inputs.clusters != NOT_ASKED
        return torch.relu(codes) * asked[..., None]

    def _alike(
        self, inputs: NetworkInputs, asked: Tensor, behind: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """How alike those behind each answer are, each other and the rest; and all of them.

        Returns:
            [B, C, R] twice, and [B, R]; nothing at all where no relations are read.
        """
        if not self.shape.relation_features:
            return [], []
        known = torch.nan_to_num(
            _standard(inputs.relations, self.relation_mean, self.relation_scale)
        )
        present = asked[:, :, None] * asked[:, None, :]
        present = present * (1.0 - torch.eye(asked.shape[1]))  # [B, M, M]
        pairs = present.sum((1, 2))[:, None].clamp(min=1.0)
        in_all = (known * present[..., None]).sum((1, 2)) / pairs
        return [among(known, present, behind), between(known, present, behind)], [in_all]

    def _dropped(self, values: Tensor) -> Tensor:
        # Outside training even the call of a module that does nothing shows in a decision's time.
        dropped: Tensor = self.dropout(values) if self.training else values
        return dropped

    def _skills(self, members: Tensor) -> Tensor:
        if not self.shape.members:
            return torch.zeros(members.shape)
        return torch.where(members == UNKNOWN, 0.0, self.skills[members.clamp(min=0)])

    def _scores(self, pooled: Tensor) -> Tensor:
        """[S, B, C] from [S, B, C, P]."""
        seeds, batch, places, _ = pooled.shape
        flat = pooled.flatten(1, 2)
        units = self._dropped(torch.relu(self.candidate(flat)))
        scores = self.candidate_score(units) + self.candidate_linear(flat)
        viewed: Tensor = scores.view(seeds, batch, places)
        return viewed

    def _query_scores(
        self,
        inputs: NetworkInputs,
        codes: Tensor,
        votes: Tensor,
        total: Tensor,
        skills: Tensor,
        alike: Sequence[Tensor],
    ) -> Tensor:
        """[S, B, 3]: nobody is right; the oracle is, where nobody is, and where somebody is."""
        figures = torch.cat(
            [
                *alike,
                query_figures(votes, total, skills),
                self.standard_question(inputs.question),
            ],
            dim=-1,
        ).expand(self.shape.seeds, -1, -1)
        everyone = torch.cat([codes.sum(2) / total, codes.amax(2), figures], dim=-1)
        units = self._dropped(torch.relu(self.query(everyone)))
        scores: Tensor = self.query_score(units) + self.query_linear(everyone)
        return scores

    def forward(
        self,
        answers: Tensor,
        relations: Tensor,
        clusters: Tensor,
        question: Tensor,
        *hidden: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Score queries of the known members, each at its own place.

        Args:
            answers: [B, N, A], NaN where unknown.
            relations: [B, N, N, R], NaN where unknown.
            clusters: int [B, N].
            question: [B, Q].
            hidden: [B, H] for each member whose hidden states are read.

        Returns:
            As ``probabilities``.
        """
        # Its length by ``shape``: ``len`` would tie an exported network to one batch size.
        members = torch.arange(self.shape.members).expand(clusters.shape[0], -1)
        return self.probabilities(
            NetworkInputs(
                answers=answers,
                relations=relations,
                clusters=clusters,
                question=question,
                members=members,
                components=self.reduce(hidden),
            )
        )

    def probabilities(self, inputs: NetworkInputs) -> tuple[Tensor, Tensor]:
        """Calibrated probabilities [B, heads], and of every answer [B, M] as the networks say it.

        The answer of the highest probability is the ensemble's.
        """
        raw, right = self.said(inputs)
        return self.calibrated(raw), right[:, 1:]

    def said(self, inputs: NetworkInputs) -> tuple[Tensor, Tensor]:
        """Uncalibrated log-odds [B, heads]; probabilities of nobody and every answer [B, 1 + M]."""
        logits = self.logits(inputs)
        right = softmax(logits.candidates, dim=-1).mean(0)
        return head_logits(right, logits.oracle, inputs.clusters), right

    def calibrated(self, raw: Tensor) -> Tensor:
        """Probabilities from log-odds, both [B, heads]."""
        return torch.sigmoid(raw * self.calibration[:, 0] + self.calibration[:, 1])


def head_logits(right: Tensor, oracle: Tensor, clusters: Tensor) -> Tensor:
    """Uncalibrated log-odds of every head.

    Args:
        right: probabilities averaged over networks, [B, 1 + M].
        oracle: as in ``Logits``, [S, B, 2].
        clusters: int [B, M].

    Returns:
        [B, heads], in the order of ``HEADS``.
    """
    best = right[:, 1:].amax(1)
    voted = right[:, 1:].gather(1, vote_places(clusters)[:, None])[:, 0]
    if_not, if_so = torch.sigmoid(oracle).mean(0).unbind(-1)
    oracle_right = right[:, 0] * if_not + (1.0 - right[:, 0]) * if_so
    return torch.logit(torch.stack([1.0 - best, 1.0 - voted, oracle_right], dim=1), eps=_TINY)


def chosen_places(right: Tensor, clusters: Tensor) -> Tensor:
    """Place of the most probable answer, the ensemble's: int [B].

    Args:
        right: probability of the answer that begins at each place, [B, M].
        clusters: int [B, M]. A place without an answer is chosen only where nobody gave one,
            even where all probabilities are too small to be told from zero.
    """
    return right.where(clusters >= 0, -1.0).argmax(1)


class _Layer(nn.Module):
    """S linear layers side by side."""

    def __init__(self, seeds: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(seeds, inputs, outputs))
        self.offset = nn.Parameter(torch.zeros(seeds, 1, outputs))

    def reset(self, generator: torch.Generator) -> None:
        """Uniform weights, as torch draws them for one linear layer."""
        bound = max(self.weight.shape[1], 1) ** -0.5
        self.weight.uniform_(-bound, bound, generator=generator)
        self.offset.uniform_(-bound, bound, generator=generator)

    def forward(self, values: Tensor) -> Tensor:
        """[S, n, outputs] from [S, n, inputs]."""
        return torch.baddbmm(self.offset, values, self.weight)


def _standard(values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return ((values - mean) / scale).clamp(-_CLIP, _CLIP)
