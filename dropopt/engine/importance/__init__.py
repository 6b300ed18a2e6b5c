"""How important each feature is: scores from training's own passes, and probes that run passes of their own."""
