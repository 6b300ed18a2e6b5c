"""Layer-wise relevance propagation through any network, by zennit's rules."""
