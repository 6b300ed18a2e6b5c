"""Layer-wise relevance propagation, with zennit's rules."""
