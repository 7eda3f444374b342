"""A text encoder of some thousand random parameters, made on the spot."""

from pathlib import Path

_TEXT = "how many apples are there and what do they make so the answer is 1 2 3 4 5 6 7 8 9 0 #### "


def make_tiny_encoder(folder: Path, *, layers: int = 3, architecture: str = "bert") -> Path:
    """Save a random encoder with its tokenizer, as the Hugging Face hub would hold it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import (
        AutoModel,
        BertConfig,
        DebertaV2Config,
        LlamaConfig,
        ModernBertConfig,
        MPNetConfig,
        PreTrainedTokenizerFast,
    )

    plain = Tokenizer(models.BPE(unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    plain.train_from_iterator([_TEXT] * 10, trainer)
    plain.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    tokenizer.save_pretrained(folder)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "max_position_embeddings": 96,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    kinds = {
        "bert": BertConfig,
        "deberta-v2": DebertaV2Config,
        "llama": LlamaConfig,
        "modernbert": ModernBertConfig,
        "mpnet": MPNetConfig,
    }
    if architecture == "modernbert":
        shape |= {"cls_token_id": 2, "sep_token_id": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(kinds[architecture](**shape)).save_pretrained(folder)
    return folder
