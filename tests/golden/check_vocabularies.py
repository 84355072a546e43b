"""Token ids of published vocabularies, ours against Python's, on 500 strings in many scripts.

usage: python tests/golden/check_vocabularies.py target/release/ftrepl
Fetches the sources of llama-cpp-python with pip, which hold the vocabularies of Llama 2, Phi-3, Llama 3, Qwen2 and GPT-2 as GGUF files, and
reads them with both. Python's tokenizers are built as transformers converts the originals: for Llama 2 and Phi-3 by its own converter from
the sentencepiece model that the file's pieces and scores make (and, where no special token is in a text, by sentencepiece itself); for
the others from the file's merges, with the pattern that the published tokenizer.json has. Needs gguf, sentencepiece, protobuf, transformers."""
import argparse
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from golden_gguf import CHATS, strings

SOURCES = "llama-cpp-python==0.3.9"
PATTERNS = {
    "gpt-2": None,
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
CONTROL, USER_DEFINED = 3, 4


def fetch(folder: pathlib.Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", SOURCES, "--dest", folder], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        for member in archive:
            if "ggml-vocab-" in member.name and member.name.endswith(".gguf"):
                member.name = member.name.split("ggml-vocab-")[-1]
                archive.extract(member, folder, filter="data")


def field(reader: gguf.GGUFReader, name: str):
    return reader.fields[name].contents() if name in reader.fields else None


def sentencepiece_of(pieces, scores, kinds) -> sentencepiece_model_pb2.ModelProto:
    """The model whose pieces these are, with Llama 2's settings."""
    model = sentencepiece_model_pb2.ModelProto()
    for piece, score, kind in zip(pieces, scores, kinds):
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(pieces)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    return model


def of_pieces(reader, phi3: bool):
    """Python's tokenizer as transformers' LlamaConverter makes it, and sentencepiece; Phi-3's special tokens take the white space after them."""
    pieces, scores, kinds = (field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type"))
    plain = sentencepiece_of(pieces[:32000], scores[:32000], kinds[:32000])
    processor = sentencepiece.SentencePieceProcessor(model_proto=plain.SerializeToString())
    vocabulary = {piece: i for i, piece in enumerate(pieces[:32000])}
    ranked = []
    for piece in pieces[:32000]:
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocabulary and piece[i:] in vocabulary]
        ranked += sorted(((vocabulary[piece], vocabulary[a], vocabulary[b], a, b) for a, b in halves))
    # The best score first, as the converter has it.
    ranked.sort(key=lambda merge: (-scores[merge[0]], merge[1], merge[2]))
    bpe = models.BPE(vocab=vocabulary, merges=[(a, b) for *_, a, b in ranked], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    added = [(i, piece) for i, (piece, kind) in enumerate(zip(pieces, kinds)) if kind in (CONTROL, USER_DEFINED) or i < 3]
    takes = lambda piece: phi3 and piece not in ("<unk>", "<s>", "<|endoftext|>")
    tokenizer.add_tokens([AddedToken(piece, normalized=False, rstrip=takes(piece), special=True) for _, piece in added])
    assert all(tokenizer.token_to_id(piece) == i for i, piece in added)
    specials = [piece for _, piece in added]
    def ids(text):
        found = tokenizer.encode(text, add_special_tokens=False).ids
        return found, found if any(piece in text for piece in specials) else processor.encode(text)
    return ids


def of_merges(reader, pattern):
    pieces, kinds, merges = (field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges"))
    vocabulary = {piece: i for i, (piece, kind) in enumerate(zip(pieces, kinds)) if kind == 1}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ", 1)) for merge in merges],
                                     ignore_merges=pattern == PATTERNS["llama-bpe"]))
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    if pattern == PATTERNS["qwen2"]:
        tokenizer.normalizer = normalizers.NFC()
    added = [(i, piece) for i, (piece, kind) in enumerate(zip(pieces, kinds)) if kind in (CONTROL, USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=True) for _, piece in added])
    def ids(text):
        found = tokenizer.encode(text, add_special_tokens=False).ids
        return found, found
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--folder", type=pathlib.Path, help="where the vocabularies are already")
    arguments = parser.parse_args()
    program = str(pathlib.Path(arguments.program).resolve())
    texts = strings() + CHATS
    failures = 0
    # One line that is long, as it must not be cut or take for ever.
    texts.append("".join(strings()) * 3)
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        if arguments.folder is None:
            fetch(place)
        folder = arguments.folder or place
        (place / "texts.json").write_text(json.dumps(texts))
        for name in ("llama-spm", "phi-3", "llama-bpe", "qwen2", "gpt-2"):
            path = next(p for p in folder.glob("*.gguf") if p.name.removeprefix("ggml-vocab-") == f"{name}.gguf")
            script = f'let plain = #{{ add_special_tokens: false }}; let t = AutoTokenizer::from_pretrained("{path}"); save_json(load_json("texts.json").map(|x| t.encode(x, plain)), "{name}.json")'
            subprocess.run([program, "-e", script], check=True, stdout=subprocess.DEVNULL, cwd=place)
            ours = json.loads((place / f"{name}.json").read_text())
            reader = gguf.GGUFReader(path)
            ids = of_merges(reader, PATTERNS[name]) if name in PATTERNS else of_pieces(reader, name == "phi-3")
            wrong = [(text, mine, theirs) for text, mine in zip(texts, ours) for theirs in ids(text) if mine != theirs]
            print(f"{name}: {len(texts)} strings, {len(wrong)} differ")
            for text, mine, theirs in wrong[:5]:
                print("   ", repr(text), mine, theirs)
            failures += len(wrong)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
