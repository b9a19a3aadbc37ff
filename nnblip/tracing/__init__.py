"""causal_trace and attribution_trace: examples in, labelled results out."""
