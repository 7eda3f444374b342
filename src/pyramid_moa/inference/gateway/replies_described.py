"""JSON Schemas of the replies, for the API's description; tests hold real replies against them."""

from typing import Any

__all__ = ["REPLY_SCHEMAS"]

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_FLAG = {"type": "boolean"}
_TEXTS = {"type": "array", "items": _TEXT}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object; what a model's server adds to it is handed on, and so allowed."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def _list(name: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _reply(kind: str, choices: str) -> dict[str, Any]:
    return _object(
        {
            "id": _TEXT,
            "object": {"const": kind},
            "created": _COUNT,
            "model": _TEXT,
            "choices": _list(choices),
            "pyramid": _ref("Pyramid"),
        },
        {"usage": {"anyOf": [_ref("Usage"), {"type": "null"}]}},
    )


def _chunk(kind: str, choices: str) -> dict[str, Any]:
    reply = _reply(kind, choices)
    return {**reply, "required": [name for name in reply["required"] if name != "pyramid"]}


def _choice(**own: Any) -> dict[str, Any]:  # noqa: ANN401 - schemas
    return _object(
        {"index": _COUNT, **own},
        {"finish_reason": _or_null(_TEXT), "logprobs": {"type": ["object", "null"]}},
    )


REPLY_SCHEMAS: dict[str, Any] = {
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": _or_null(_TEXT),
                    "code": _or_null(_TEXT),
                },
                {"pyramid": _ref("Pyramid")},
            )
        }
    ),
    "Pyramid": {
        "description": "Why the answer is what it is. With several questions or answers, sums, "
        "and each one's own block under `choices`.",
        **_object(
            {
                "route": {"enum": ["router", "vote", "direct"]},
                "escalated": _FLAG,
                "degraded": _FLAG,
                "reason": _TEXT,
                "models_called": _TEXTS,
                "cost_usd": _or_null(_NUMBER),
                "saved_usd": _or_null(_NUMBER),
            },
            {
                "answered_by": _or_null(_TEXT),
                "cause": _TEXT,
                "question_distance": _or_null(_NUMBER),
                "void_characters": _COUNT,
                "answer": _or_null(_TEXT),
                "ensemble_answer": _or_null(_TEXT),
                "p_ensemble_fails": _or_null(_NUMBER),
                "p_oracle_right": _or_null(_NUMBER),
                "threshold": _or_null(_NUMBER),
                "policy": {"enum": ["parallel", "sequential"]},
                "outvoted": _FLAG,
                "budget_exhausted": _FLAG,
                "oracle_cost_usd": _or_null(_NUMBER),
                "members_s": _or_null(_NUMBER),
                "router_s": _or_null(_NUMBER),
                "oracle_s": _or_null(_NUMBER),
                "sampling_as_trained": _FLAG,
                "price_note": _TEXT,
                "models": {"type": "object", "additionalProperties": _ref("Call")},
                "choices": _list("Pyramid"),
            },
        ),
    },
    "Call": _object(
        {
            "answer": _or_null(_TEXT),
            "group": {
                "type": ["integer", "null"],
                "description": "Models whose answers are equal share it",
            },
            "error": _or_null(_TEXT),
            "prompt_tokens": _or_null(_COUNT),
            "completion_tokens": _or_null(_COUNT),
            "cost_usd": _or_null(_NUMBER),
            "latency_s": _or_null(_NUMBER),
        },
        {"tokens_estimated": _FLAG},
    ),
    "Usage": {
        "description": "Tokens of all calls of all models together; of one model asked by name, "
        "what its server says",
        **_object(
            {}, {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT}
        ),
    },
    "ChatReply": _reply("chat.completion", "ChatChoice"),
    "ChatChoice": _choice(message=_object({"role": _TEXT, "content": _or_null(_TEXT)})),
    "ChatChunk": _chunk("chat.completion.chunk", "ChatDelta"),
    "ChatDelta": _choice(delta={"type": "object"}),
    "TextReply": _reply("text_completion", "TextChoice"),
    "TextChoice": _choice(text=_TEXT),
    "TextChunk": _chunk("text_completion", "TextChoice"),
    "Model": _object(
        {"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT}
    ),
    "ModelList": _object({"object": {"const": "list"}, "data": _list("Model")}),
    "Health": _object({"status": {"const": "ok"}, "version": _TEXT}),
    "Readiness": _object(
        {"status": _TEXT, "models": {"type": "object", "additionalProperties": _TEXT}}
    ),
    "Reloaded": _object({"status": {"const": "reloaded"}, "models": _TEXTS}),
}
