"""Texts for the experiments: NumPy only, nothing here imports JAX."""

from rnn_jax.data.autoregression import LinearAutoregression
from rnn_jax.data.columns import read_columns
from rnn_jax.data.corpora import BUILTIN, Corpus, builtin_text, load_corpus, read_text, stdin_lines
from rnn_jax.data.encoding import TextEncoder
from rnn_jax.data.errors import DataError
from rnn_jax.data.fetch import RemoteFile, cache_folder, fetch
from rnn_jax.data.grammar import grammar_texts
from rnn_jax.data.joiners import join_marks, set_marks_apart
from rnn_jax.data.keyed_vectors import KeyedVectors, load_word2vec, save_word2vec
from rnn_jax.data.labelled import LabelledTexts, read_labelled
from rnn_jax.data.labelled_sets import LABELLED_SETS, load_labelled_set
from rnn_jax.data.memory_tasks import MemoryBatch, MemoryBatches
from rnn_jax.data.named_sets import NAMED_SETS, NamedSet, Part
from rnn_jax.data.padded import PaddedBatches, is_held_out, pad, spare_rare
from rnn_jax.data.pairs import Pairs, hold_out, limit_length, make_pairs, read_parallel, read_tsv
from rnn_jax.data.series import SeriesBatches, Table, generated_table, mackey_glass, read_table
from rnn_jax.data.splitting import split_words, word_pieces
from rnn_jax.data.streams import EvaluationBatches, StreamBatch, Streams, evaluation_streams, windows
from rnn_jax.data.subwords import BPE, Subwords
from rnn_jax.data.tagged import TagEncoder, TaggedSequence
from rnn_jax.data.vocabulary import END_OF_LINE, LEVELS, UNKNOWN_CHARACTER, UNKNOWN_WORD, Vocabulary

__all__ = [
    "BPE",
    "BUILTIN",
    "END_OF_LINE",
    "LABELLED_SETS",
    "LEVELS",
    "NAMED_SETS",
    "UNKNOWN_CHARACTER",
    "UNKNOWN_WORD",
    "Corpus",
    "DataError",
    "EvaluationBatches",
    "KeyedVectors",
    "LabelledTexts",
    "LinearAutoregression",
    "MemoryBatch",
    "MemoryBatches",
    "NamedSet",
    "PaddedBatches",
    "Pairs",
    "Part",
    "RemoteFile",
    "SeriesBatches",
    "StreamBatch",
    "Streams",
    "Subwords",
    "Table",
    "TagEncoder",
    "TaggedSequence",
    "TextEncoder",
    "Vocabulary",
    "builtin_text",
    "cache_folder",
    "evaluation_streams",
    "fetch",
    "generated_table",
    "grammar_texts",
    "hold_out",
    "is_held_out",
    "join_marks",
    "limit_length",
    "load_corpus",
    "load_labelled_set",
    "load_word2vec",
    "mackey_glass",
    "make_pairs",
    "pad",
    "read_columns",
    "read_labelled",
    "read_parallel",
    "read_table",
    "read_text",
    "read_tsv",
    "save_word2vec",
    "set_marks_apart",
    "spare_rare",
    "split_words",
    "stdin_lines",
    "windows",
    "word_pieces",
]
