"""How important each feature is: probes, running averages and relevance propagation."""
