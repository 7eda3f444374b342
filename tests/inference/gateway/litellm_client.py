"""Asks a gateway through LiteLLM's client, in LiteLLM's own environment: litellm_client.py URL KEY.

Prints what came as one line of JSON. Knows nothing of the project.
"""

import asyncio
import json
import os
import sys

# The prices of the world's models are of no use here, and nothing is to be fetched.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_MODE"] = "PRODUCTION"

import litellm

MESSAGES = [{"role": "user", "content": "How many legs have two spiders?"}]
TOOL = {
    "type": "function",
    "function": {"name": "legs", "parameters": {"type": "object", "properties": {}}},
}


def main(url, key):
    """All kinds of requests, and what each error is to a program."""
    own = {"api_base": url, "api_key": key, "num_retries": 0, "max_retries": 0}

    def ask(model="openai/pyramid", **fields):
        return litellm.completion(model=model, messages=MESSAGES, **{**own, **fields})

    def error(**fields):
        try:
            ask(**fields)
        except litellm.exceptions.APIError as caught:
            return type(caught).__name__
        except Exception as caught:  # what it is called is what is looked at
            return type(caught).__name__
        return None

    whole = ask(temperature=0.0, max_tokens=50, stop=["\n\n"], seed=3)
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    several = ask(n=2, temperature=1.0)
    logprobs = ask(logprobs=True)
    tools = ask(tools=[TOOL], tool_choice="auto")
    formed = ask(response_format={"type": "json_object"})
    dial = ask(extra_body={"pyramid": {"threshold": 0.9}})
    text = litellm.text_completion(model="text-completion-openai/pyramid", prompt="How?", **own)

    async def later():
        return await litellm.acompletion(model="openai/pyramid", messages=MESSAGES, **own)

    headers = whole._hidden_params["additional_headers"]
    sys.stdout.write(
        json.dumps(
            {
                "whole": whole.choices[0].message.content,
                "finish_reason": whole.choices[0].finish_reason,
                "usage": whole.usage.total_tokens,
                "escalated": headers["llm_provider-x-pyramid-escalated"],
                "reason": headers["llm_provider-x-pyramid-reason"],
                "streamed": "".join(
                    chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
                ),
                "streamed_usage": next(
                    chunk.usage.total_tokens for chunk in chunks if getattr(chunk, "usage", None)
                ),
                "several": [choice.message.content for choice in several.choices],
                "logprobs": len(logprobs.choices[0].logprobs.content),
                "tool": tools.choices[0].message.tool_calls[0].function.name,
                "tool_reason": tools._hidden_params["additional_headers"][
                    "llm_provider-x-pyramid-route"
                ],
                "formed": formed.choices[0].message.content,
                "dial": dial._hidden_params["additional_headers"][
                    "llm_provider-x-pyramid-escalated"
                ],
                "text": text.choices[0].text,
                "later": asyncio.run(later()).choices[0].message.content,
                "errors": {
                    "key": error(api_key="another-key-0123456789"),
                    "model": error(model="openai/none"),
                    "value": error(top_p=7.0),
                    "field": error(extra_body={"nonsense": 1}),
                },
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
