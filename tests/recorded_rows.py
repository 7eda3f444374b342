"""Rows of answers recorded elsewhere, as ``import`` reads them from a table."""


def row(number, model, answer, **fields):
    """One model's answer to one question; ``fields`` replace or add columns."""
    return {
        "source": "s",
        "split": "test",
        "question_id": number,
        "question": f"{number} apples and one are how many?",
        "gold": str(number + 1),
        "model": model,
        "variant": "greedy",
        "sample": 0,
        "response": f"so it is {answer}",
        "answer": answer,
        "prompt_tokens": None,
        "completion_tokens": None,
        "cost_usd": None,
        "latency_s": None,
        "mean_logprob": None,
        "confidence": None,
        **fields,
    }


ROWS = [
    *(row(n, "Foo-8B", str(n + 1)) for n in range(6)),
    *(row(n, "Bar-8B", str(n + 2) if n % 2 else f"{n + 1}.00") for n in range(1, 8)),
    *(row(n, "Big-70B", str(n + 1)) for n in range(8)),
]
