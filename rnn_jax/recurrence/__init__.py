"""How the loop over time is run; `rnn_jax.unroll` is the door."""
