"""200 strings with their token ids from SmolLM2's Python tokenizer.

usage: python tests/golden/make_golden.py tokens --model DIR/smollm2
Makes smollm2/tokens.json. Two sets of ids: `ids` come from the tokenizer.json that transformers converts out of the GGUF, whose
pre-tokenizer is a bare ByteLevel; `ids_digits` from the same vocabulary behind Digits(individual_digits) + ByteLevel, the pre-tokenizer that
the GGUF names (`tokenizer.ggml.pre = smollm`, llama.cpp splits every digit for it) and that the hub's tokenizer.json has. They are
equal where `ids_digits` is absent."""
import random
import string

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from golden_common import HERE, versions, write_json

TEXTS = [
    # English
    "", "a", "Hello", "Hello, world!", " Hello", "hello world", "The quick brown fox jumps over the lazy dog.", "I'm you're he's we'll they've I'd don't",
    "I'M YOU'RE HE'S WE'LL", "It’s “quoted” — with ‘curly’ marks…", "What is the capital of France?", "Question: Who wrote Hamlet?\nAnswer: Shakespeare",
    "ALL CAPS SENTENCE", "CamelCaseAndsnake_case", "e.g. i.e. etc.", "re-entrant co-operate", "Mr. O'Neill's", "antidisestablishmentarianism",
    "Pneumonoultramicroscopicsilicovolcanoconiosis", "Wait... what?!?!", "A sentence. Another sentence.  Two spaces after.", "www.example.com/path?query=1&b=2#frag",
    "someone@example.org", "Q: What is aspirin?\nA: Aspirin is an NSAID used for pain, fever and inflammation.", "naïve café résumé coöperate", "Ångström æther œuvre ß",
    # digits
    "0", "7", "10", "42", "105", "1945", "2024-11-24", "3.14159265358979", "1,000,000", "1 000 000", "-273.15", "1e-5 2E+10", "0xDEADBEEF", "x1 y22 z333",
    "1st 2nd 3rd 4th", "12:34:56", "in 1945", "in  1945", "in   1945 and    2000", "tab\t5", "line\n5", "line\n\n5", " 5", "  5", "   5", "5 ", "5  5", "a1b2c3",
    "15 multiplied by 7 is 105.", "$5.99 €20 £3 ¥100", "50% of 80 = 40", "H2O CO2 C6H12O6", "²³½¾", "١٢٣ ۴۵۶", "१२३", "１２３", "Ⅳ Ⅻ", "①②③", "3×4÷2±1", "5'10\"",
    # code
    "def add(a, b):\n    return a + b\n", "for i in range(10):\n\tprint(i)\n", "#include <stdio.h>\nint main(void) { return 0; }", "fn main() { println!(\"{}\", 1u8); }",
    "let x = vec![1, 2, 3];", "if (a && b || !c) { x += 1; }", "SELECT * FROM t WHERE id = 5;", "{\"name\": \"Alice\", \"age\": 30}", "<div class=\"a\">b</div>",
    "a->b::c<d>(e)[f]", "/* comment */ // another", "\\n is not a newline, \\t neither", "C:\\Users\\me", "/usr/local/bin/python3", "$HOME ${PATH}", "`backticks` ```fence```",
    "x = x**2 % 3 // 4", "import torch.nn as nn", "        eight spaces", "\t\ttwo tabs", "a\tb\tc", "self.fisher[name] += param.grad.data.clone() ** 2", "==>", "!=", "====", "------",
    "__init__", "λx.x", "#!/bin/bash\nset -euo pipefail\n",
    # whitespace
    " ", "  ", "   ", "    ", "     ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", " \n", "\n ", " \n \n ", "\r\n", "a\r\nb\r\n", "a\rb", "a \n b", "trailing   ", "   leading",
    "a  b   c    d", "a\n\n\nb", "\u00a0non\u00a0breaking\u00a0", "\u2003em\u2003space", "\u3000全角\u3000", "\u200bzero\u200bwidth", "\ufeffBOM", "a\x0bb\x0cc", "\u2028line\u2029para", "\x85nel",
    # scripts
    "你好，世界！", "日本語のテキストです。", "カタカナ ひらがな 漢字", "안녕하세요 세계", "Привет, как дела?", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم", "السَّلامُ عَلَيْكُم",
    "नमस्ते दुनिया", "ক্ষমতা বাংলা", "தமிழ் மொழி", "తెలుగు", "ภาษาไทยไม่มีช่องว่าง", "ພາສາລາວ", "မြန်မာ", "ខ្មែរ", "ქართული", "Հայերեն", "አማርኛ", "ᏣᎳᎩ", "ᚠᚢᚦ", "Tiếng Việt có dấu",
    "Ĉu vi parolas Esperanton?", "Zażółć gęślą jaźń", "İstanbul ıI", "ﬁ ligature ﬀ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛", "𐍈𐌰", "漢𠀀字𪜈",
    # emoji and combining marks
    "😀", "😀😃", "👨‍👩‍👧‍👦", "👩🏽‍🚀 in space", "🇫🇷🇩🇪", "❤️ ❤", "1️⃣", "🏳️‍🌈", "é e\u0301 \u00e9", "a\u0300\u0301\u0302\u0303", "Z̷a̷l̷g̷o̷", "क\u094dष", "가 \u1100\u1161", "☃★♫",
    # special tokens in text
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", "a<|im_end|>b", " <|im_start|> ", "<|im_start|><|im_start|>", "<|im_star|>", "< |im_start|>", "<repo_name>x",
    "<|IM_START|>", "<file_sep><empty_output>",
    # garbage
    "\x00", "\x00\x01\x02\x1f\x7f", "ÿþ\x80\x9f", "\ufffd\ufffd", "\ufffe", "Ã©Â€Â™ mojibake", "\U0010ffff", "\ue000private", "a\x1b[31mred\x1b[0m", "Ġhello Ċ ĠĠ",
]


def generated(count: int) -> list[str]:
    """Long and mixed strings until there are `count`, from a fixed seed."""
    rng = random.Random(11)
    texts = ["a" * 300, "supercalifragilistic" * 12, "=" * 100, " " * 100, "\n" * 40, "ab " * 60, "0123456789" * 8, "日" * 50, "😀" * 20]
    pieces = ["the", " of", "ing", "1", "23", "  ", "\n", "\t", "é", "日本", "😀", "\u0301", "'s", "...", "<|im_end|>", "ا", "न", "_", "{", "\"", "\\", "\r\n", "A", "Zz", " "]
    while len(texts) < count:
        kind = len(texts) % 3
        if kind == 0:
            texts.append("".join(rng.choice(pieces) for _ in range(rng.randint(3, 40))))
        elif kind == 1:
            texts.append("".join(rng.choice(string.printable) for _ in range(rng.randint(5, 60))))
        else:
            texts.append("".join(chr(c) for c in (rng.randint(1, 0x2fff) for _ in range(rng.randint(1, 12)))))
    return texts[:count]


def make(args) -> None:
    if args.model is None:
        raise SystemExit("tokens: give --model DIR, the folder with SmolLM2-135M-Instruct")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    digits = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    digits.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
    texts = list(dict.fromkeys(TEXTS))
    texts += generated(max(20, 230 - len(texts)))
    rows, different = [], []
    for text in texts:
        ids = tokenizer.encode(text)
        row = {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}
        other = digits.encode(text).ids
        if other != ids:
            row["ids_digits"] = other
            different.append(text)
        rows.append(row)
    changed = [r["text"] for r in rows if r["decoded"] != r["text"]]
    print(len(rows), "strings; digits differ:", different, "not round trip:", changed)
    write_json(HERE / "smollm2" / "tokens.json", {
        "made_with": versions(), "not_round_trip": changed, "strings": rows,
        "padding_facts": {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id,
                          "unk": tokenizer.unk_token_id, "vocab_size": len(tokenizer)}})
