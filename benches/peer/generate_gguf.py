"""Greedy generation of one text with llama.cpp, the weights kept as the GGUF file has them: a peer of workloads/generate.rhai.

usage: generate_gguf.py model=FILE.gguf prompt=TEXT [tokens=128] [repeats=2] [threads=2]"""
import itertools

from llama_cpp import Llama

from common import arguments, finish, timed

given = arguments(model="", prompt="Once upon a time", dtype="", tokens=128, repeats=2, threads=2)
model = Llama(model_path=given.model, n_ctx=1024, n_threads=given.threads, n_threads_batch=given.threads, verbose=False)
prompt = model.tokenize(given.prompt.encode(), add_bos=False)


def generate(count):
    model.reset()       # else a second call would take the prompt from the cache
    return list(itertools.islice(model.generate(prompt, temp=0.0), count))


seconds, tokens, new = timed(generate, given.tokens, given.repeats)
finish(seconds=seconds, tokens=tokens, text=model.detokenize(new).decode(errors="replace"))
