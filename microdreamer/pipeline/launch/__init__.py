"""launch.py: a neural field (or Gaussians) from a sentence or a picture, by score distillation or by iterative reconstruction."""
