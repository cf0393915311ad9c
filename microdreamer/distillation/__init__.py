"""Objectives that turn a prior into targets or losses for any renderable representation."""

# What a configuration shares with score-based iterative reconstruction, here so that reading one needs no PyTorch.
VIEWS, EVEN_VIEW = 4, True  # of a round; whether they are spread evenly around the object
VIEWS_WEIGHT, REF_LOSS, REF_MASK_LOSS = 1.0, 0.3, 0.01  # weights of the prior's views, and of the picture's colours and mask
