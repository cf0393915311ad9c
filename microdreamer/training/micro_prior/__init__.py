"""The prior that ships with the project: its network, vocabulary, training data and training loop."""
