"""The model card of an exported router."""

from pyramid_moa.router_model.card import RouterCard
from pyramid_moa.router_model.policy import OperatingPoint

__all__ = ["model_card"]


def model_card(card: RouterCard) -> str:
    """Text of README.md, with the metadata block that the Hugging Face Hub reads.

    Args:
        card: what the checkpoint says of itself.

    Returns:
        Markdown.
    """
    figures = card.validation
    queries = card.trained_on.get("queries", {})
    points = "\n".join(
        f"| {point.name} | {point.threshold:.4f} | {_figure(point.accuracy)} | "
        f"{_figure(point.escalation_rate)} | {_figure(point.cost_ratio)} | {point.target} | "
        f"{_promised(point)} |"
        for point in card.operating_points
    )
    hidden = card.hidden_key or "none"
    lines = [
        "---",
        "library_name: pyramid-moa",
        "tags:",
        "- llm-routing",
        "- cascade",
        "- pyramid-moa",
        "---",
        "",
        "# Router for a pyramid of language models",
        "",
        "Small members answer first; this router reads from their answers whether they can be",
        "trusted, and the oracle is asked only where they can't.",
        "",
        f"- members: {', '.join(card.member_names)}",
        f"- oracle: {card.oracle}",
        f"- grader: {card.grader}; right means equal to the {card.reference}",
        f"- features: {', '.join(card.feature_groups)}; hidden states: {hidden}",
        f"- needs token log-probabilities: {'yes' if card.needs_logprobs else 'no'}",
        f"- trained on: {card.trained_on.get('dataset', 'unknown')}, "
        f"{queries.get('fitted', 'unknown')} queries, and "
        f"{queries.get('calibration', 'unknown')} more for operating points",
        f"- out of fold: failure AUROC {_figure(figures.get('failure_auroc'))} (agreement "
        f"{_figure(figures.get('agreement_auroc'))}), log-loss {_figure(figures.get('log_loss'))}",
        "",
        "## Operating points",
        "",
        "Accuracy, share of queries that ask the oracle and all-in cost relative to asking it",
        "every time, as measured on the questions each point was chosen on.",
        "",
        "| name | threshold | accuracy | escalated | cost ratio | chosen for | promised |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        points,
        "",
    ]
    if card.price_note:
        lines += [f"Prices: {card.price_note}", ""]
    lines += [
        "## Use",
        "",
        "```bash",
        "pyramid-moa answer --pyramid pyramid.yaml --router . --input questions.jsonl \\",
        "  --output answers.jsonl",
        "```",
        "",
        f"SHA-256 of router.safetensors: `{card.weights_sha256}`",
        "",
    ]
    return "\n".join(lines)


def _promised(point: OperatingPoint) -> str:
    """How sure it is that the target is kept to on questions that nobody has seen."""
    if point.promise is None:
        return "no"
    return f"at {point.promise.confidence:g}, by {point.promise.questions} questions"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
