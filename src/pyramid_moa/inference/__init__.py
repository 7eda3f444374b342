"""Gated inference: a checkpoint and a pyramid answer questions."""
