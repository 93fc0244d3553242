"""Makes tests/retrieval/local.json: a tiny BERT's vectors, computed in float64 with numpy, by code that shares nothing
with the server's. Weights come from names (see `about`), so that the file holds none."""
import json, math, sys, unicodedata
import numpy as np

ABOUT = (
    "A BERT like all-MiniLM-L6-v2, only small, and the vectors it gives, computed in float64 by hand-written numpy. "
    "Number i of a tensor: state = fnv1a64(name) + (i + 1) * 0x9e3779b97f4a7c15 (mod 2^64), mixed as splitmix64 does; "
    "u = (mixed >> 40) / 2^23 - 1. The number is 1 + u / 4 in *.LayerNorm.weight, u / 8 in *.bias, "
    "u / 2 in the other *.weight of the encoder, u in *_embeddings.weight, rounded to float32."
)
CONFIG = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 48,
    "type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_embedding_type": "absolute", "pad_token_id": 0,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCAB = (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + list(LETTERS) + ["##" + c for c in LETTERS]
         + list("0123456789") + ["##" + c for c in "0123456789"] + list(".,!?-'") + ["日", "本"]
         + ["the", "cat", "dog", "sat", "mat", "on", "##s", "##ing", "##ed", "walk", "hello", "world", "token", "##iz", "##er"])
VOCAB = list(dict.fromkeys(VOCAB))
CONFIG["vocab_size"] = len(VOCAB)
MASK = (1 << 64) - 1

def fnv(name):
    h = 0xcbf29ce484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001b3) & MASK
    return h

def tensor(name, shape):
    base, out = fnv(name), []
    for i in range(math.prod(shape)):
        z = (base + (i + 1) * 0x9e3779b97f4a7c15) & MASK
        z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & MASK
        z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & MASK
        z ^= z >> 31
        u = (z >> 40) / 2**23 - 1
        if name.endswith("LayerNorm.weight"): u = 1 + u / 4
        elif name.endswith(".bias"): u = u / 8
        elif name.endswith("_embeddings.weight"): pass
        else: u = u / 2
        out.append(u)
    return np.array(out, dtype=np.float32).astype(np.float64).reshape(shape)

# --- tokens: BertTokenizer, uncased
def cjk(c):
    o = ord(c)
    return 0x4E00 <= o <= 0x9FFF or 0x3400 <= o <= 0x4DBF or 0xF900 <= o <= 0xFAFF

def punctuation(c):
    o = ord(c)
    return 33 <= o <= 47 or 58 <= o <= 64 or 91 <= o <= 96 or 123 <= o <= 126 or unicodedata.category(c).startswith("P")

def words(text):
    clean = ""
    for c in text:
        if c in "\t\n\r": clean += " "
        elif c in "\0\ufffd" or unicodedata.category(c).startswith("C"): continue
        elif cjk(c): clean += f" {c} "
        else: clean += " " if unicodedata.category(c) == "Zs" else c
    for word in clean.split():
        word = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")
        piece = ""
        for c in word:
            if punctuation(c):
                if piece: yield piece
                yield c
                piece = ""
            else: piece += c
        if piece: yield piece

def wordpiece(word):
    if len(word) > 100: return ["[UNK]"]
    out, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in INDEX:
                out.append(piece); start = end
                break
        else: return ["[UNK]"]
    return out

INDEX = {t: i for i, t in enumerate(VOCAB)}

# --- the model
H, F, N = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_attention_heads"]
erf = np.vectorize(math.erf)

def linear(x, name, inputs, outputs):
    return np.einsum("ti,oi->to", x, tensor(name + ".weight", (outputs, inputs))) + tensor(name + ".bias", (outputs,))

def layer_norm(x, name):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + CONFIG["layer_norm_eps"]) * tensor(name + ".weight", (H,)) + tensor(name + ".bias", (H,))

def forward(ids):
    x = tensor("embeddings.word_embeddings.weight", (len(VOCAB), H))[ids]
    x = x + tensor("embeddings.position_embeddings.weight", (CONFIG["max_position_embeddings"], H))[: len(ids)]
    x = x + tensor("embeddings.token_type_embeddings.weight", (CONFIG["type_vocab_size"], H))[0]
    x = layer_norm(x, "embeddings.LayerNorm")
    for layer in range(CONFIG["num_hidden_layers"]):
        p = f"encoder.layer.{layer}."
        q, k, v = (linear(x, p + f"attention.self.{n}", H, H).reshape(len(ids), N, H // N) for n in ("query", "key", "value"))
        s = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(H // N)
        s = np.exp(s - s.max(-1, keepdims=True))
        s /= s.sum(-1, keepdims=True)
        context = np.einsum("hqk,khd->qhd", s, v).reshape(len(ids), H)
        x = layer_norm(x + linear(context, p + "attention.output.dense", H, H), p + "attention.output.LayerNorm")
        up = linear(x, p + "intermediate.dense", H, F)
        up = up * 0.5 * (1 + erf(up / math.sqrt(2)))
        x = layer_norm(x + linear(up, p + "output.dense", F, H), p + "output.LayerNorm")
    return unit(x.mean(0))

def unit(v):
    return v / np.sqrt((v**2).sum())

TEXTS = ["", "Hello world", "The cat sat on the mat.", "the dogs walked, walking!", "Tokenizers", "Çà été über naïve",
         "日本 is 日本", "  \t\n\r ", "a\u200bb c\u00a0d", "x" * 101, "x" * 100, "unknown: Ω ☃ 😀 end",
         "the cat's mat - 1234567890?", "the cat sat on the mat and walked " * 15, "[CLS] hello [SEP] world [MASK]"]

def windows(text):  # added tokens are found in the text before anything else
    rest = text
    body = []
    while rest:
        hits = [(rest.find(s), s) for s in VOCAB[:5] if s in rest]
        at, s = min(hits) if hits else (len(rest), "")
        body += [INDEX[p] for w in words(rest[:at]) for p in wordpiece(w)]
        if s: body.append(INDEX[s])
        rest = rest[at + len(s):]
    # a long text goes in windows that differ by one token at most
    count = max(1, math.ceil(len(body) / (CONFIG["max_position_embeddings"] - 2)))
    at = [len(body) * n // count for n in range(count + 1)]
    return [[INDEX["[CLS]"]] + body[a:b] + [INDEX["[SEP]"]] for a, b in zip(at, at[1:])]

cases = []
for text in TEXTS:
    parts = windows(text)
    vector = unit(sum(forward(ids) for ids in parts))
    cases.append({"text": text, "windows": parts, "vector": [float(np.float32(v)) for v in vector]})
D = json.dumps
def short(v): return "[" + ",".join(f"{x:.9g}" for x in v) + "]"
rows = ",\n".join(f'    {{"text": {D(c["text"], ensure_ascii=False)},\n     "windows": {D(c["windows"], separators=(",", ":"))},\n     "vector": {short(c["vector"])}}}' for c in cases)
out = f'{{\n  "about": {D(ABOUT)},\n  "config": {D(CONFIG)},\n  "vocab": {D(VOCAB, ensure_ascii=False)},\n  "cases": [\n{rows}\n  ]\n}}\n'
open(sys.argv[1], "w").write(out)
json.loads(out)
a = np.array([c["vector"] for c in cases])
print(len(VOCAB), np.round((a @ a.T)[:6, :6], 3))
