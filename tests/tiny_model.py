"""Language models of 60,000 random parameters, made on the spot."""

from dataclasses import dataclass
from pathlib import Path

CONTEXT = 128
# Random models hardly ever choose one certain token: many end tokens make some rows end early.
END_TOKENS = [f"<end{number}>" for number in range(20)]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_TEXT = "how many apples are there 1 2 3 4 5 6 7 8 9 0 #### "


@dataclass(frozen=True)
class TinyModels:
    """Folders of three models of one family."""

    member_a: Path
    member_b: Path
    oracle: Path


def make_tiny_model(folder: Path, *, seed: int) -> Path:
    """Save a random Llama with a byte-level tokenizer, as the Hugging Face hub would hold it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<eos>", *END_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator([_TEXT] * 10, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=3,
                num_attention_heads=2,
                max_position_embeddings=CONTEXT,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
                initializer_range=0.2,
            )
        )
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<eos>", *END_TOKENS])
    model.save_pretrained(folder)
    return folder


def make_tiny_models(folder: Path) -> TinyModels:
    """Save two members and an oracle."""
    names = ("member_a", "member_b", "oracle")
    return TinyModels(
        *(make_tiny_model(folder / name, seed=seed) for seed, name in enumerate(names))
    )
