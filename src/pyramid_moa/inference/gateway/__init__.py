"""The gateway: gated inference behind an OpenAI-compatible API."""
