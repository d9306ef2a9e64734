"""A translator beside one of the same sizes in PyTorch: `python -m benchmarks.seq2seq`.

Training: one step (loss, gradient, Adam) of an encoder of two bidirectional LSTM layers and a decoder of two layers of
which the first attends (Bahdanau), teacher forcing, batches of full length. The PyTorch model is the same: `nn.LSTM`
for the encoder and for the decoder's upper layer, a loop of `nn.LSTMCell` and attention for the first, one product with
the vocabulary after it. Decoding: beam search over as many steps as a target has, with weights as they were drawn; in
PyTorch a loop over the steps with the same batched operations. Both sides take turns in one process.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from rnn_jax.sweep import cores


class Sizes(NamedTuple):
    """What both models are built of: B sentences, S source and T target symbols, H units, V symbols, K hypotheses."""

    batch: int
    source: int
    target: int
    hidden: int
    vocabulary: int
    beam: int


def data(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Random sources [S, B] and targets [T, B]; symbol 0 ends a sentence and does not occur."""
    random = np.random.default_rng(0)
    shapes = ((sizes.source, sizes.batch), (sizes.target, sizes.batch))
    source, target = (random.integers(1, sizes.vocabulary, shape).astype(np.int32) for shape in shapes)
    return source, target


def ours(sizes: Sizes) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(training step, beam search)."""
    from rnn_jax.models.seq2seq import Seq2Seq, shift, translate

    model = Seq2Seq(sizes.vocabulary, sizes.vocabulary, hidden_size=sizes.hidden, num_layers=2, attention="bahdanau")
    source, target = map(jnp.asarray, data(sizes))
    mask = jnp.ones(source.shape, bool)
    params = jax.jit(model.init)(jax.random.key(0), source, mask, target)
    optimizer = optax.adam(1e-4)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            total, count = model.apply(params, source, mask, shift(target, 0), target, method="loss")
            return total / count

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    held = [params, optimizer.init(params)]

    def train() -> Any:
        held[0], held[1], value = step(*held)
        return jax.block_until_ready(value)

    def decode() -> Any:
        return jax.block_until_ready(
            translate(model, params, source, mask, end=0, length=sizes.target, beam_size=sizes.beam)
        )

    return train, decode


def torch(sizes: Sizes) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(training step, beam search)."""
    import torch
    from torch import nn

    torch.set_num_threads(cores())
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    hidden, vocabulary = sizes.hidden, sizes.vocabulary

    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_source, self.embed_target = nn.Embedding(vocabulary, hidden), nn.Embedding(vocabulary, hidden)
            self.encoder = nn.LSTM(hidden, hidden // 2, num_layers=2, bidirectional=True)
            self.first = nn.LSTMCell(2 * hidden, hidden)
            self.upper = nn.LSTM(2 * hidden, hidden)
            self.query, self.memory = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
            self.score = nn.Linear(hidden, 1, bias=False)
            self.combine, self.readout = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, vocabulary)

        def encode(self, source):
            outputs, (h, c) = self.encoder(self.embed_source(source))
            values = outputs.transpose(0, 1).contiguous()
            # [2 layers · 2 directions, B, H/2] -> [2, B, H]
            h, c = (x.view(2, 2, -1, hidden // 2).transpose(1, 2).reshape(2, -1, hidden) for x in (h, c))
            return values, self.memory(values), h, c

        def attend(self, query, values, keys):
            scores = self.score(torch.tanh(self.query(query)[:, None] + keys))[..., 0]
            return torch.bmm(torch.softmax(scores, -1)[:, None], values)[:, 0]

        def decode(self, embedded, values, keys, state):
            h, c, upper = state
            outputs, contexts = [], []
            for x in embedded:
                context = self.attend(h, values, keys)
                h, c = self.first(torch.cat([x, context], -1), (h, c))
                outputs.append(h)
                contexts.append(context)
            contexts = torch.stack(contexts)
            outputs, upper = self.upper(torch.cat([torch.stack(outputs), contexts], -1), upper)
            vectors = torch.tanh(self.combine(torch.cat([contexts, outputs], -1)))
            return self.readout(vectors), (h, c, upper)

    model = Translator().to(device)
    source, target = (torch.as_tensor(array, dtype=torch.long, device=device) for array in data(sizes))
    inputs = torch.cat([torch.zeros_like(target[:1]), target[:-1]])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def train() -> Any:
        optimizer.zero_grad()
        values, keys, h, c = model.encode(source)
        logits, _ = model.decode(model.embed_target(inputs), values, keys, (h[0], c[0], (h[1:], c[1:])))
        loss = nn.functional.cross_entropy(logits.view(-1, vocabulary), target.view(-1))
        loss.backward()
        optimizer.step()
        return loss.item()

    def decode() -> Any:
        beams, batch = sizes.beam, sizes.batch
        with torch.inference_mode():
            values, keys, h, c = model.encode(source)
            # Hypotheses of a sentence lie side by side: row b · K + k.
            values, keys = values.repeat_interleave(beams, 0), keys.repeat_interleave(beams, 0)
            h, c = h.repeat_interleave(beams, 1), c.repeat_interleave(beams, 1)
            state = (h[0], c[0], (h[1:].contiguous(), c[1:].contiguous()))
            last = torch.zeros(batch * beams, dtype=torch.long, device=device)
            log_probs = torch.full((batch, beams), -torch.inf, device=device)
            log_probs[:, 0] = 0
            ended = torch.zeros(batch, beams, dtype=torch.bool, device=device)
            tokens = torch.zeros(batch, beams, 0, dtype=torch.long, device=device)
            offset = torch.arange(batch, device=device)[:, None] * beams
            only_end = torch.full((vocabulary,), -torch.inf, device=device)
            only_end[0] = 0
            for _ in range(sizes.target):
                logits, state = model.decode(model.embed_target(last)[None], values, keys, state)
                gains = torch.log_softmax(logits[0], -1).view(batch, beams, vocabulary)
                gains = torch.where(ended[..., None], only_end, gains)
                log_probs, chosen = (log_probs[..., None] + gains).view(batch, -1).topk(beams)
                parents, symbols = chosen // vocabulary, chosen % vocabulary
                rows = (offset + parents).view(-1)
                h, c, (upper_h, upper_c) = state
                state = (h[rows], c[rows], (upper_h[:, rows], upper_c[:, rows]))
                tokens = torch.cat([tokens.gather(1, parents[..., None].expand_as(tokens)), symbols[..., None]], -1)
                ended = ended.gather(1, parents) | (symbols == 0)
                last = symbols.view(-1)
                if ended.all():
                    break
        return tokens.cpu()

    return train, decode


def main() -> None:
    """Read the flags, measure, print, write the JSON."""
    parser = timing.parser("benchmarks.seq2seq", __doc__)
    parser.add_argument("--batch", type=int, default=128, help="sentences in a training batch")
    parser.add_argument("--decode_batch", type=int, nargs="+", default=[64, 8, 1], help="sentences searched at once")
    parser.add_argument("--length", type=int, default=20, help="symbols of a source and of a target")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    flags = timing.read_flags(parser)

    rows = []
    searches = [(1, "beam search", "sentences", batch) for batch in flags.decode_batch]
    for index, task, unit, batch in [(0, "training", "target tokens", flags.batch), *searches]:
        sizes = Sizes(batch, flags.length, flags.length, flags.hidden, flags.vocabulary, flags.beam)
        calls = {"rnn_jax": ours(sizes)[index]}
        try:
            calls["torch"] = torch(sizes)[index]
        except ImportError as error:
            print(f"torch: skipped, {error.name or error} is not installed")
        table = timing.summary(timing.alternate(calls, rounds=flags.rounds, calls=1), "rnn_jax")
        rows.append({"task": task, **sizes._asdict(), "times": table})
        units = batch * (flags.length if index == 0 else 1)
        for name, row in table.items():
            faster = f"  ours is {1 / row['ratio']:.2f} times as fast" if "ratio" in row else ""
            speed = units / row["median_ms"] * 1e3
            print(f"{task:11} {batch:4} {name:8} {row['median_ms']:9.1f} ms {speed:9.0f} {unit}/s{faster}", flush=True)
    print(timing.write("seq2seq", {"rows": rows}, flags.json))


if __name__ == "__main__":
    main()
